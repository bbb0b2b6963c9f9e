"""What would make a placement fit that does not, found by planning again."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lfm4ads.shard.planning.cluster import GIB, ClusterConfig, WorkloadConfig
from lfm4ads.shard.planning.described import Tables
from lfm4ads.shard.planning.planner import Plan, SearchConfig, plan_cluster

MOST_RANKS = 4096
"""No larger cluster is tried."""
SMALLER = (2, 4, 8)
"""A width or a batch is divided by these."""


@dataclass(frozen=True)
class Change:
    """One change of the description, and what planning with it came to."""

    what: str
    """In words that stand before 'fits' or 'would fit'."""
    ranks: int
    fits: bool
    max_rank_bytes: int
    step_seconds: float


def find_changes(
    tables: Tables,
    *,
    workload: WorkloadConfig,
    cluster: ClusterConfig,
    search: SearchConfig,
) -> list[Change]:
    """Return what was tried: more ranks, the host tier, fp16, narrower tables, a smaller batch."""
    quick = replace(search, swaps=0)

    def on(nodes: int) -> Plan:
        more = replace(cluster, nodes=nodes)
        return plan_cluster(tables, workload=workload, cluster=more, search=quick)

    def of(changed: Tables, work: WorkloadConfig) -> Plan:
        return plan_cluster(changed, workload=work, cluster=cluster, search=quick)

    nodes, more = _fewest_nodes(on, first=cluster.nodes, each=cluster.gpus_per_node)
    ranks = nodes * cluster.gpus_per_node
    changes = [_change(f"{ranks} ranks ({nodes} nodes)", more, ranks=ranks)]
    if not tables.on_host_T.all():
        both = replace(tables, on_host_T=np.ones(len(tables), dtype=bool))
        words = "the host tier (rules: {'*': {kernels: [fused, fused_uvm_caching]}})"
        changes.append(_change(words, of(both, workload), ranks=cluster.ranks))
    if workload.table_precision != "fp16":
        half = replace(workload, table_precision="fp16")
        words = "workload.table_precision=fp16"
        changes.append(_change(words, of(tables, half), ranks=cluster.ranks))
    narrow = _first_fit(
        [
            (f"tables {part} times narrower", of(_narrower(tables, part=part), workload))
            for part in SMALLER[:2]
        ]
    )
    small = _first_fit(
        [
            (f"workload.batch_size={size}", of(tables, replace(workload, batch_size=size)))
            for part in SMALLER
            if (size := workload.batch_size // part)
        ]
    )
    return changes + [_change(words, plan, ranks=cluster.ranks) for words, plan in narrow + small]


def _first_fit(tried: list[tuple[str, Plan]]) -> list[tuple[str, Plan]]:
    """Return the first that fits, or the last."""
    return [one for one in tried if one[1].fits][:1] or tried[-1:]


def _change(what: str, plan: Plan, *, ranks: int) -> Change:
    cost = plan.estimate
    return Change(what, ranks, plan.fits, int(cost.hbm.max()), cost.step_seconds)


def _narrower(tables: Tables, *, part: int) -> Tables:
    """Return the tables with widths divided, still multiples of four."""
    return replace(tables, dim_T=np.maximum(tables.dim_T // part // 4 * 4, 4))


def _fewest_nodes(on: Callable[[int], Plan], *, first: int, each: int) -> tuple[int, Plan]:
    """Return the fewest nodes more than ``first`` that fit, or the most that were tried."""
    few, many = first, first * 2
    plan = on(many)
    while not plan.fits and many * 2 * each <= MOST_RANKS:
        few, many = many, many * 2
        plan = on(many)
    while plan.fits and many - few > 1:
        middle = (few + many) // 2
        found = on(middle)
        if found.fits:
            many, plan = middle, found
        else:
            few = middle
    return many, plan


def advise(plan: Plan, *, cluster: ClusterConfig, changes: list[Change]) -> str:
    """Return one sentence: what is too much, what would fit, and what would not do."""
    over = (plan.estimate.hbm.max() - cluster.hbm_limit_bytes) / GIB
    what = f"HBM lacks {over:.1f} GiB on the fullest rank"
    if over <= 0:
        node = plan.estimate.host.reshape(cluster.nodes, -1).sum(axis=1).max()
        lacking = node - cluster.host_limit_bytes * cluster.gpus_per_node
        what = f"host memory lacks {lacking / GIB:.1f} GiB on the fullest node"
    good = [
        f"{one.what} at {one.max_rank_bytes / GIB:.1f} GiB a rank and"
        f" {one.step_seconds * 1e3:.1f} ms a step"
        for one in changes
        if one.fits
    ]
    bad = [one.what for one in changes if not one.fits]
    would = f"what would fit: {', or '.join(good)}" if good else "no single change would fit"
    return f"{what}; {would}" + (f"; not enough alone: {', '.join(bad)}" if bad else "")
