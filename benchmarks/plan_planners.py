"""The planner of ``plan`` beside TorchRec's on one described cluster, judged by one cost model.

python -m benchmarks.plan_planners --json [--tables 300] [--nodes 4] [--untold]

Both may place tables table-, column-, table-row-, row-wise and by grid. TorchRec's planner is told
which kinds to try by a table's size; untold it tries all and takes many minutes. Both placements
are then measured by the formulas of docs/planning.md, which are ours; memory of weights needs no
model. The last line printed is one JSON object.

Dimension key: T tables, S pieces of tables.
"""

import argparse
import json
import logging
import time
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import ModuleSharder

from lfm4ads.shard.planning.cluster import GIB, ClusterConfig, WorkloadConfig
from lfm4ads.shard.planning.described import (
    KINDS,
    RuleConfig,
    TableGroup,
    Tables,
    apply_rules,
    describe_groups,
)
from lfm4ads.shard.planning.estimate import Estimate, Shards, estimate
from lfm4ads.shard.planning.pieces import Cut, Pieces
from lfm4ads.shard.planning.planner import SearchConfig, plan_cluster

PLACED = ("table_wise", "column_wise", "table_row_wise", "grid", "row_wise")
LARGE_ROWS = 20_000_000
"""From here on the told planner tries rows, below it whole tables and columns."""


def describe(count: int, *, kinds: tuple[str, ...]) -> Tables:
    """Return ``count`` tables from 1,000 to 100 million rows, one in ten of them lists."""
    tenth = max(count // 10, 1)
    one = TableGroup(min_rows=1000, max_rows=100_000_000, dim=64)
    groups = {
        "field": replace(one, count=count - tenth),
        "list": replace(one, count=tenth, seed=1, pooling=20),
    }
    return apply_rules(describe_groups(groups), rules={"*": RuleConfig(kinds=kinds)})


def torchrec_plan(
    tables: Tables, *, workload: WorkloadConfig, cluster: ClusterConfig, told: bool
) -> tuple[Shards, Cut]:
    """Return TorchRec's placement in our terms."""
    bags = EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            EmbeddingBagConfig(
                name=name,
                num_embeddings=int(rows),
                embedding_dim=int(dim),
                feature_names=[f"feature_{name}"],
            )
            for name, rows, dim in zip(tables.names, tables.rows_T, tables.dim_T, strict=True)
        ],
    )
    limits = {
        name: ParameterConstraints(
            sharding_types=_words(int(rows), told=told),
            compute_kernels=["fused"],
            pooling_factors=[float(pooling)],
            min_partition=16,
        )
        for name, rows, pooling in zip(tables.names, tables.rows_T, tables.pooling_T, strict=True)
    }
    topology = Topology(
        world_size=cluster.ranks,
        local_world_size=cluster.gpus_per_node,
        compute_device="cuda",
        hbm_cap=int(cluster.hbm_gib * GIB),
        ddr_cap=int(cluster.host_gib / cluster.gpus_per_node * GIB),
        hbm_mem_bw=cluster.hbm_gb_per_second * 1e6,  # bytes a millisecond
        intra_host_bw=cluster.intra_node_gb_per_second * 1e6,
        inter_host_bw=cluster.inter_node_gb_per_second * 1e6,
    )
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=workload.batch_size,
        constraints=limits,
        storage_reservation=FixedPercentageStorageReservation(percentage=cluster.reserve_ratio),
        debug=False,
    )
    plan = planner.plan(bags, [cast(ModuleSharder[Any], EmbeddingBagCollectionSharder())])
    return _shards_of(tables, plan.plan[""])


def _words(rows: int, *, told: bool) -> list[str]:
    words = ["grid_shard" if kind == "grid" else kind for kind in PLACED]
    if told:
        return ["table_row_wise", "row_wise"] if rows >= LARGE_ROWS else words[:2]
    return words


def _shards_of(tables: Tables, places: Any) -> tuple[Shards, Cut]:
    kinds, parts, pieces = [], [], []
    for at, name in enumerate(tables.names):
        word = places[name].sharding_type
        kinds.append(KINDS.index("grid" if word == "grid_shard" else word))
        shards = places[name].sharding_spec.shards
        parts.append(len({shard.shard_offsets[1] for shard in shards}))
        for shard in shards:
            spot = (shard.placement.rank(), *shard.shard_offsets, *shard.shard_sizes)
            pieces.append((at, kinds[-1], *spot))
    table_S, kind_S, rank_S, row_S, column_S, rows_S, columns_S = np.array(pieces).T
    host_T = np.zeros(len(tables), dtype=bool)
    held = Pieces(table_S, kind_S, rows_S, columns_S, host_T[table_S])
    return Shards(held, rank_S, row_S, column_S), Cut(np.array(kinds), np.array(parts), host_T)


def figures(cost: Estimate, *, seconds: float, cut: Cut) -> dict[str, Any]:
    """Return what is compared."""
    weights = cost.memory["weights"]
    kinds, counts = np.unique(cut.kind_T, return_counts=True)
    return {
        "planning_cpu_seconds": seconds,
        "step_seconds": cost.step_seconds,
        "load_spread_ratio": cost.spread_ratio,
        "max_rank_gib": float(cost.hbm.max() / GIB),
        "weights_spread_ratio": float(weights.max() / weights.mean()),
        "kinds": {KINDS[kind]: int(n) for kind, n in zip(kinds, counts, strict=True)},
    }


def show(name: str, one: dict[str, Any]) -> None:
    """Print one planner's line."""
    print(
        f"{name}: planned in {one['planning_cpu_seconds']:.2f} CPU s, step"
        f" {one['step_seconds'] * 1e3:.2f} ms, load spread {one['load_spread_ratio']:.3f},"
        f" fullest rank {one['max_rank_gib']:.1f} GiB, weights spread"
        f" {one['weights_spread_ratio']:.3f}, {one['kinds']}",
        flush=True,
    )


def main() -> None:
    """Plan, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--tables", type=int, default=300)
    parser.add_argument("--nodes", type=int, default=4, help="of eight accelerators")
    parser.add_argument("--untold", action="store_true", help="TorchRec's with every kind, too")
    words = parser.parse_args()
    logging.disable(logging.WARNING)
    cluster, workload = ClusterConfig(nodes=words.nodes), WorkloadConfig(batch_size=1024)
    result: dict[str, Any] = {}
    for name, kinds in (("ours", PLACED), ("ours, data_parallel too", KINDS)):
        tables = describe(words.tables, kinds=kinds)
        started = time.process_time()
        plan = plan_cluster(tables, workload=workload, cluster=cluster, search=SearchConfig())
        seconds = time.process_time() - started
        result[name] = figures(plan.estimate, seconds=seconds, cut=plan.cut)
        show(name, result[name])
    tables = describe(words.tables, kinds=PLACED)
    told = {"torchrec, told by size": True} | ({"torchrec": False} if words.untold else {})
    for name, by_size in told.items():
        started = time.process_time()
        shards, cut = torchrec_plan(tables, workload=workload, cluster=cluster, told=by_size)
        seconds = time.process_time() - started
        cost = estimate(tables, shards, cut=cut, workload=workload, cluster=cluster)
        result[name] = figures(cost, seconds=seconds, cut=cut)
        show(name, result[name])
    if words.json:
        print(json.dumps({"tables": words.tables, "ranks": cluster.ranks, "planners": result}))


if __name__ == "__main__":
    main()
