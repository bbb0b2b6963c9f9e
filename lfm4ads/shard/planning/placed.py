"""A finished plan as plain values for files: each rank's load, each table's place.

Dimension key: T tables, S pieces of tables, R ranks.
"""

from typing import Any

import numpy as np

from lfm4ads.shard.planning.cluster import ClusterConfig
from lfm4ads.shard.planning.described import DATA_PARALLEL, KINDS, Tables
from lfm4ads.shard.planning.planner import Plan

Json = dict[str, Any]


def plan_figures(plan: Plan, *, cluster: ClusterConfig) -> Json:
    """Return what a plan comes to: sums, the bottleneck, and every rank's parts."""
    cost = plan.estimate
    phases = cost.phases
    slowest = max(phases, key=phases.__getitem__)
    kinds, counts = np.unique(plan.cut.kind_T, return_counts=True)
    return {
        "fits": plan.fits,
        "ranks": cluster.ranks,
        "max_rank_bytes": int(cost.hbm.max()),
        "limit_rank_bytes": int(cluster.hbm_limit_bytes),
        "max_rank_host_bytes": int(cost.host.max()),
        "limit_rank_host_bytes": int(cluster.host_limit_bytes),
        "predicted_step_seconds": cost.step_seconds,
        "phase_seconds": phases,
        "bottleneck": {
            "phase": slowest,
            "rank": int(cost.seconds[slowest].argmax()),
            "seconds": phases[slowest],
            "step_ratio": phases[slowest] / cost.step_seconds,
        },
        "load_spread_ratio": cost.spread_ratio,
        "memory_spread_ratio": float(cost.hbm.max() / cost.hbm.mean()),
        "tables_by_kind": {
            KINDS[kind]: int(count) for kind, count in zip(kinds, counts, strict=True)
        },
        "tables_on_host": int(plan.cut.host_T.sum()),
        "per_rank": {
            "memory_bytes": {name: _whole(each) for name, each in cost.memory.items()},
            "host_bytes": _whole(cost.host),
            "seconds": {name: _rounded(each) for name, each in cost.seconds.items()},
        },
    }


def _whole(values_R: np.ndarray) -> list[int]:
    return [int(value) for value in values_R]


def _rounded(values_R: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values_R]


def placement_of(tables: Tables, plan: Plan) -> Json:
    """Return what ``placement.json`` holds, which training takes as ``shard.place.plan``.

    Of every table: what it is, how it is cut, and the ranks of its pieces, column part by column
    part; all ranks is an empty list.
    """
    shards = plan.shards
    order = np.argsort(shards.pieces.table_S, kind="stable")
    sizes = np.bincount(shards.pieces.table_S, minlength=len(tables))
    held = np.split(shards.rank_S[order], np.cumsum(sizes)[:-1])
    world = plan.estimate.host.size
    rows = [
        {
            "name": name,
            "rows": int(tables.rows_T[at]),
            "dim": int(tables.dim_T[at]),
            "kind": KINDS[plan.cut.kind_T[at]],
            "kernel": "fused_uvm_caching" if plan.cut.host_T[at] else "fused",
            "cache_ratio": float(tables.cache_T[at]) if plan.cut.host_T[at] else 0.0,
            "column_parts": int(plan.cut.parts_T[at]),
            "ranks": [] if _is_everywhere(plan, at, world=world) else held[at].tolist(),
        }
        for at, name in enumerate(tables.names)
    ]
    return {"schema_version": 1, "ranks": world, "tables": rows}


def _is_everywhere(plan: Plan, at: int, *, world: int) -> bool:
    kind = int(plan.cut.kind_T[at])
    return world > 1 and (kind == DATA_PARALLEL or KINDS[kind] == "row_wise")
