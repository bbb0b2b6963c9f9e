"""How a table is cut, and what each piece costs its rank in memory and in a step's time.

docs/planning.md has the formulas in words.

Dimension key: T tables, S pieces of tables.
"""

from dataclasses import dataclass

import numpy as np

from lfm4ads.shard.planning.cluster import ClusterConfig, WorkloadConfig, bytes_of
from lfm4ads.shard.planning.described import (
    DATA_PARALLEL,
    GRID,
    ROW_WISE,
    TABLE_ROW_WISE,
    Doubles,
    Flags,
    Ints,
    Tables,
)

CACHE_INDEX_BYTES = 4
"""Of every row of a cached table, in HBM: FBGEMM's map from rows of the cache to tables."""
CACHE_SLOT_BYTES = 16
"""Of every slot of a cache, in HBM: which row it holds, and when that was read last."""
SORT_PASSES = 8
"""Times the ids are read or written to bring equal ones together before the update."""


@dataclass(frozen=True)
class Cut:
    """The kind of each table, into how many column parts it is cut, and whether it is on a host."""

    kind_T: Ints
    parts_T: Ints
    host_T: Flags


@dataclass(frozen=True)
class Pieces:
    """Parts of tables, each on one rank."""

    table_S: Ints
    kind_S: Ints
    rows_S: Ints
    columns_S: Ints
    host_S: Flags


@dataclass(frozen=True)
class Memory:
    """Bytes of each piece (S,) on its rank, by what they are for; ``host`` is outside of HBM."""

    weights: Doubles
    optimizer: Doubles
    input_ids: Doubles
    activations: Doubles
    gradients: Doubles
    host: Doubles

    @property
    def hbm(self) -> Doubles:
        """Return the bytes (S,) in HBM."""
        return self.weights + self.optimizer + self.input_ids + self.activations + self.gradients


@dataclass(frozen=True)
class Seconds:
    """Seconds each piece (S,) adds to the phases of a step on its rank."""

    input_exchange: Doubles
    lookup: Doubles
    output_exchange: Doubles
    gradient_exchange: Doubles
    update: Doubles
    all_reduce: Doubles

    @property
    def total(self) -> Doubles:
        """Return the seconds (S,) of all phases."""
        return (
            self.input_exchange
            + self.lookup
            + self.output_exchange
            + self.gradient_exchange
            + self.update
            + self.all_reduce
        )


@dataclass(frozen=True)
class _Traffic:
    """What a piece is asked for in a step: ids (S,), vectors given back (S,), and how wide."""

    ids_S: Doubles
    distinct_S: Doubles
    vectors_S: Doubles
    lengths_S: Doubles
    """Bags told to this piece."""


def row_parts(kind_S: Ints, *, cluster: ClusterConfig) -> Ints:
    """Return into how many row parts a kind cuts a table."""
    in_node = (kind_S == TABLE_ROW_WISE) | (kind_S == GRID)
    parts = np.where(kind_S == ROW_WISE, cluster.ranks, np.where(in_node, cluster.gpus_per_node, 1))
    return parts.astype(np.int64)


def largest_pieces(tables: Tables, *, table_S: Ints, cut: Cut, cluster: ClusterConfig) -> Pieces:
    """Return the largest piece of a table under a cut; ``cut`` holds one entry (S,) a piece."""
    parts_S = row_parts(cut.kind_T, cluster=cluster)
    return Pieces(
        table_S=table_S,
        kind_S=cut.kind_T,
        rows_S=-(-tables.rows_T[table_S] // parts_S),
        columns_S=tables.dim_T[table_S] // cut.parts_T,
        host_S=cut.host_T,
    )


def _traffic(
    tables: Tables, pieces: Pieces, *, workload: WorkloadConfig, cluster: ClusterConfig
) -> _Traffic:
    at = pieces.table_S
    # A hash spreads ids evenly over rows, so a piece is asked for its share of them.
    share_S = pieces.rows_S / tables.rows_T[at]
    bags_S = np.where(
        pieces.kind_S == DATA_PARALLEL, workload.batch_size, workload.batch_size * cluster.ranks
    ).astype(np.float64)
    ids_S = bags_S * tables.pooling_T[at] * share_S
    return _Traffic(
        ids_S=ids_S,
        distinct_S=np.minimum(ids_S * tables.distinct_T[at], pieces.rows_S),
        # A piece of rows sends a partial sum of every bag, however few of its ids it holds.
        vectors_S=np.where(tables.unpooled_T[at], ids_S, bags_S),
        lengths_S=bags_S,
    )


def measure_memory(
    tables: Tables, pieces: Pieces, *, workload: WorkloadConfig, cluster: ClusterConfig
) -> Memory:
    """Return what each piece takes on its rank."""
    traffic = _traffic(tables, pieces, workload=workload, cluster=cluster)
    cache_S = tables.cache_T[pieces.table_S]
    local_S = pieces.kind_S == DATA_PARALLEL
    row_bytes_S = pieces.columns_S * float(bytes_of(workload.table_precision))
    table_S = pieces.rows_S * row_bytes_S
    cached_S = (
        np.ceil(pieces.rows_S * cache_S) * (row_bytes_S + CACHE_SLOT_BYTES)
        + pieces.rows_S * CACHE_INDEX_BYTES
    )
    state_S = pieces.rows_S * _state_bytes(pieces, workload=workload)
    # FBGEMM keeps one accumulator a row in HBM also where the table itself is managed on the host.
    state_on_host_S = pieces.host_S & (workload.sparse_kind != "rowwise_adagrad")
    outputs_S = traffic.vectors_S * pieces.columns_S * bytes_of(workload.output_precision)
    return Memory(
        weights=np.where(pieces.host_S, cached_S, table_S),
        optimizer=np.where(state_on_host_S, 0.0, state_S),
        input_ids=(traffic.ids_S + traffic.lengths_S)
        * workload.id_bytes
        * workload.batches_in_flight,
        activations=outputs_S,
        gradients=outputs_S + np.where(local_S, table_S, 0.0),
        host=np.where(pieces.host_S, table_S, 0.0) + np.where(state_on_host_S, state_S, 0.0),
    )


def measure_seconds(
    tables: Tables, pieces: Pieces, *, workload: WorkloadConfig, cluster: ClusterConfig
) -> Seconds:
    """Return what each piece adds to the phases of a step."""
    traffic = _traffic(tables, pieces, workload=workload, cluster=cluster)
    local_S = pieces.kind_S == DATA_PARALLEL
    in_node_S = (pieces.kind_S == TABLE_ROW_WISE) | (pieces.kind_S == GRID)
    row_bytes_S = pieces.columns_S * float(bytes_of(workload.table_precision))
    table_S = pieces.rows_S * row_bytes_S
    state_S = _state_bytes(pieces, workload=workload)
    hbm, link = cluster.hbm_gb_per_second * 1e9, cluster.host_link_gb_per_second * 1e9
    missed_S = np.where(
        pieces.host_S, traffic.distinct_S * (1 - tables.hit_T[pieces.table_S]) * row_bytes_S, 0.0
    )
    ids_S = traffic.ids_S * workload.id_bytes
    outputs_S = traffic.vectors_S * pieces.columns_S * bytes_of(workload.output_precision)
    exchange = cluster.seconds_per_exchanged_byte
    output_S = outputs_S * np.where(in_node_S, cluster.seconds_per_node_summed_byte, exchange)
    dense_update_S = np.where(local_S, 2 * table_S + 2 * pieces.rows_S * state_S, 0.0)
    sparse_update_S = np.where(
        local_S, 0.0, traffic.distinct_S * (row_bytes_S + state_S) * 2 + ids_S * SORT_PASSES
    )
    return Seconds(
        input_exchange=np.where(local_S, 0.0, ids_S + traffic.lengths_S * workload.id_bytes)
        * exchange,
        lookup=(traffic.distinct_S * row_bytes_S + ids_S + outputs_S) / hbm + missed_S / link,
        output_exchange=np.where(local_S, 0.0, output_S),
        gradient_exchange=np.where(local_S, 0.0, output_S),
        # What the cache took in is written back when it is pushed out.
        update=(outputs_S + dense_update_S + sparse_update_S) / hbm + missed_S / link,
        all_reduce=np.where(local_S, table_S * cluster.seconds_per_reduced_byte, 0.0),
    )


def _state_bytes(pieces: Pieces, *, workload: WorkloadConfig) -> Doubles:
    """Return what the sparse optimiser keeps for one row of each piece (S,)."""
    columns_S = pieces.columns_S.astype(np.float64)
    return workload.state_bytes_per_row + workload.state_bytes_per_number * columns_S
