"""Memory and step time of every rank under a placement.

Dimension key: T tables, S pieces of tables, R ranks.
"""

from dataclasses import dataclass, fields

import numpy as np

from lfm4ads.shard.planning.cluster import ClusterConfig, WorkloadConfig, bytes_of
from lfm4ads.shard.planning.described import DATA_PARALLEL, Doubles, Ints, Tables
from lfm4ads.shard.planning.pieces import (
    Cut,
    Memory,
    Pieces,
    Seconds,
    measure_memory,
    measure_seconds,
)

DENSE_BYTES = 20
"""Of a dense parameter: itself, its gradient, DDP's copy of the gradient, AdamW's two moments."""


@dataclass(frozen=True)
class Shards:
    """Every piece of every table, and where it is."""

    pieces: Pieces
    rank_S: Ints
    first_row_S: Ints
    first_column_S: Ints


@dataclass(frozen=True)
class Estimate:
    """What a placement costs each rank (R,)."""

    memory: dict[str, Doubles]
    """Bytes in HBM, by what they are for."""
    host: Doubles
    """Bytes in the node's memory."""
    seconds: dict[str, Doubles]
    """By phase. Phases end in an exchange, so the slowest rank of each holds up all."""

    @property
    def hbm(self) -> Doubles:
        """Return all bytes (R,) in HBM."""
        return np.sum(list(self.memory.values()), axis=0)

    @property
    def load(self) -> Doubles:
        """Return the seconds (R,) that a rank works by itself."""
        return np.sum(list(self.seconds.values()), axis=0)

    @property
    def phases(self) -> dict[str, float]:
        """Return the seconds of each phase: those of its slowest rank."""
        return {name: float(each.max()) for name, each in self.seconds.items()}

    @property
    def step_seconds(self) -> float:
        """Return the seconds of a step in which nothing overlaps."""
        return sum(self.phases.values())

    @property
    def spread_ratio(self) -> float:
        """Return how much the slowest rank has to do, over the mean."""
        return float(self.load.max() / self.load.mean())

    def fits(self, cluster: ClusterConfig) -> bool:
        """Whether every accelerator and every node holds what it is given."""
        nodes = self.host.reshape(cluster.nodes, -1).sum(axis=1)
        return bool(
            self.hbm.max() <= cluster.hbm_limit_bytes
            and nodes.max() <= cluster.host_limit_bytes * cluster.gpus_per_node
        )


def estimate(
    tables: Tables,
    shards: Shards,
    *,
    cut: Cut,
    workload: WorkloadConfig,
    cluster: ClusterConfig,
) -> Estimate:
    """Return what each rank holds and how long it works."""
    pieces = shards.pieces
    memory = measure_memory(tables, pieces, workload=workload, cluster=cluster)
    seconds = measure_seconds(tables, pieces, workload=workload, cluster=cluster)

    def by_rank(values_S: Doubles) -> Doubles:
        return sum_by_rank(values_S, rank_S=shards.rank_S, ranks=cluster.ranks)

    bytes_R = {
        field.name: by_rank(getattr(memory, field.name))
        for field in fields(Memory)
        if field.name != "host"
    }
    seconds_R = {field.name: by_rank(getattr(seconds, field.name)) for field in fields(Seconds)}
    received = _received_bytes(tables, cut=cut, workload=workload)
    bytes_R["activations"] += received + workload.batch_size * workload.activation_bytes_per_row
    bytes_R["gradients"] += received
    # Results arrive in, and their gradients leave from, copies of their own.
    bytes_R["buffers"] = np.full(cluster.ranks, 2 * received)
    bytes_R["input_ids"] += _own_ids_bytes(tables, cut=cut, workload=workload)
    bytes_R["dense"] = np.full(cluster.ranks, float(DENSE_BYTES * workload.dense_parameters))
    if cluster.ranks > 1:
        # A rank that holds little still receives the results of its own rows.
        least = received * cluster.seconds_per_exchanged_byte
        for name in ("output_exchange", "gradient_exchange"):
            seconds_R[name] = np.maximum(seconds_R[name], least)
        for name in ("input_exchange", "output_exchange", "gradient_exchange", "all_reduce"):
            seconds_R[name] += cluster.collective_seconds
    flops = workload.batch_size * workload.flops_per_row
    seconds_R["dense"] = np.full(cluster.ranks, flops / (cluster.dense_tflops * 1e12))
    seconds_R["all_reduce"] += 4 * workload.dense_parameters * cluster.seconds_per_reduced_byte
    return Estimate(bytes_R, by_rank(memory.host), seconds_R)


def sum_by_rank(values_S: Doubles, *, rank_S: Ints, ranks: int) -> Doubles:
    """Return the sum of each rank's pieces (R,)."""
    return np.bincount(rank_S, weights=values_S, minlength=ranks).astype(np.float64)


def base_bytes(tables: Tables, *, cut: Cut, workload: WorkloadConfig) -> float:
    """Return what every rank holds besides pieces of tables."""
    received = _received_bytes(tables, cut=cut, workload=workload)
    return (
        4 * received
        + workload.batch_size * workload.activation_bytes_per_row
        + _own_ids_bytes(tables, cut=cut, workload=workload)
        + DENSE_BYTES * workload.dense_parameters
    )


def _received_bytes(tables: Tables, *, cut: Cut, workload: WorkloadConfig) -> float:
    """Return the bytes of all vectors that come back for a rank's own rows."""
    vectors_T = np.where(tables.unpooled_T, tables.pooling_T, 1.0)
    away_T = cut.kind_T != DATA_PARALLEL
    width = float((vectors_T * tables.dim_T)[away_T].sum())
    return workload.batch_size * width * bytes_of(workload.output_precision)


def _own_ids_bytes(tables: Tables, *, cut: Cut, workload: WorkloadConfig) -> float:
    """Return the bytes of a rank's own batch of ids, one copy for each column part that needs it.

    The ids of a data_parallel table are counted with the table.
    """
    copies_T = np.where(cut.kind_T == DATA_PARALLEL, 0, cut.parts_T)
    ids = float(((tables.pooling_T + 1) * copies_T).sum())
    return workload.batch_size * ids * workload.id_bytes * workload.batches_in_flight
