"""Chooses how every table is cut and where every piece goes, without a process group.

Longest work first onto the least loaded rank, for several sizes of pieces; then pieces are moved
and swapped off the slowest rank. Plain numpy: docs/planning.md has its times beside TorchRec's.

Dimension key: T tables, U units (one rank, one node, or all ranks), R ranks, N nodes.
"""

from dataclasses import dataclass

import numpy as np

from lfm4ads.shard.planning.cluster import ClusterConfig, WorkloadConfig
from lfm4ads.shard.planning.described import Flags, Tables
from lfm4ads.shard.planning.estimate import Estimate, Shards, base_bytes, estimate
from lfm4ads.shard.planning.options import build_options
from lfm4ads.shard.planning.pieces import Cut
from lfm4ads.shard.planning.swaps import swap_units
from lfm4ads.shard.planning.units import Units, build_shards, build_units, place_units

LIMITS = ((8.0, 0.9), (1.0, 0.5), (0.5, 0.5), (0.5, 0.1), (0.25, 0.25), (0.1, 0.1))
"""Largest piece that is tried: its work as a share of a rank's mean, its bytes of a rank's HBM."""

ROOM_RATIO = 0.1
"""Share of a step's time that is given for leaving all of HBM free."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How hard the planner looks."""

    least_columns: int = 16
    """A table is not cut into narrower column parts."""
    swaps: int = 300
    """Moves and swaps of pieces off the slowest rank."""

    def __post_init__(self) -> None:
        if self.least_columns < 4 or self.least_columns % 4 or self.swaps < 0:
            raise ValueError(
                "search needs least_columns, a multiple of 4, and swaps >= 0, got"
                f" {self.least_columns} and {self.swaps}"
            )


@dataclass(frozen=True)
class Plan:
    """Where everything goes and what it costs."""

    cut: Cut
    shards: Shards
    estimate: Estimate
    fits: bool


def plan_cluster(
    tables: Tables,
    *,
    workload: WorkloadConfig,
    cluster: ClusterConfig,
    search: SearchConfig,
) -> Plan:
    """Return the fastest placement found that fits, or else the one that is least too large.

    Tables that may be in HBM or on the host go to the host one by one, those first whose traffic
    is least for their bytes, until the rest fits.
    """

    def attempt(host_T: Flags) -> Plan:
        return _plan(tables, host_T=host_T, workload=workload, cluster=cluster, search=search)

    forced_T = ~tables.in_hbm_T
    plan = attempt(forced_T)
    either = np.flatnonzero(tables.in_hbm_T & tables.on_host_T)
    if plan.fits or not either.size:
        return plan
    traffic_T = tables.pooling_T * tables.distinct_T / tables.rows_T
    order = either[np.argsort(traffic_T[either], kind="stable")]

    def with_on_host(count: int) -> Plan:
        host_T = forced_T.copy()
        host_T[order[:count]] = True
        return attempt(host_T)

    few, many, best = 0, len(order), with_on_host(len(order))
    while best.fits and many - few > 1:
        middle = (few + many) // 2
        found = with_on_host(middle)
        if found.fits:
            many, best = middle, found
        else:
            few = middle
    return best


def _plan(
    tables: Tables,
    *,
    host_T: Flags,
    workload: WorkloadConfig,
    cluster: ClusterConfig,
    search: SearchConfig,
) -> Plan:
    options = build_options(
        tables,
        host_T=host_T,
        least_columns=search.least_columns,
        workload=workload,
        cluster=cluster,
    )
    tried: list[tuple[Units, Plan]] = []
    for share, part in LIMITS:
        cut = options.choose(
            most_seconds=share * options.least_seconds / cluster.ranks,
            most_bytes=part * cluster.hbm_limit_bytes,
            host_T=host_T,
        )
        base = base_bytes(tables, cut=cut, workload=workload)
        units = build_units(tables, cut=cut, workload=workload, cluster=cluster)
        placed = place_units(units, base_bytes=base, cluster=cluster)
        plan = _finish(tables, placed, cut=cut, workload=workload, cluster=cluster)
        tried.append((placed, plan))
    placed, best = min(tried, key=lambda one: _badness(one[1], cluster=cluster))
    base = base_bytes(tables, cut=best.cut, workload=workload)
    swapped = swap_units(placed, base_bytes=base, rounds=search.swaps, cluster=cluster)
    better = _finish(tables, swapped, cut=best.cut, workload=workload, cluster=cluster)
    return min(better, best, key=lambda plan: _badness(plan, cluster=cluster))


def _badness(plan: Plan, *, cluster: ClusterConfig) -> tuple[float, float]:
    """Return what to minimise: first what does not fit, then the step and some of the memory."""
    full = float(plan.estimate.hbm.max()) / cluster.hbm_limit_bytes
    over = 0.0 if plan.fits else max(1.0, full)
    return over, plan.estimate.step_seconds * (1 + ROOM_RATIO * full)


def _finish(
    tables: Tables, units: Units, *, cut: Cut, workload: WorkloadConfig, cluster: ClusterConfig
) -> Plan:
    shards = build_shards(tables, units, cut=cut)
    cost = estimate(tables, shards, cut=cut, workload=workload, cluster=cluster)
    return Plan(cut, shards, cost, cost.fits(cluster))
