"""Where the planner puts pieces: each once, within memory, and evenly."""

from dataclasses import replace

import numpy as np
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.shard.planning.advice import advise, find_changes
from lfm4ads.shard.planning.cluster import ClusterConfig, WorkloadConfig
from lfm4ads.shard.planning.described import (
    DATA_PARALLEL,
    KINDS,
    ROW_WISE,
    TABLE_ROW_WISE,
    RuleConfig,
    TableGroup,
    apply_rules,
    describe_groups,
)
from lfm4ads.shard.planning.placed import placement_of, plan_figures
from lfm4ads.shard.planning.planner import SearchConfig, plan_cluster
from lfm4ads.shard.planning.swaps import swap_units
from lfm4ads.shard.planning.units import Units, place_units

CLUSTER = ClusterConfig(nodes=2, gpus_per_node=4, hbm_gib=8, host_gib=64)
WORKLOAD = WorkloadConfig(batch_size=256, dense_parameters=10_000)
SEARCH = SearchConfig()


def mixed():
    return describe_groups(
        {
            "giant": TableGroup(rows=60_000_000, dim=64),
            "list": TableGroup(count=3, rows=2_000_001, dim=128, pooling=40),
            "ids": TableGroup(rows=500_000, dim=32, pooling=20, unpooled=True),
            "field": TableGroup(count=60, min_rows=5, max_rows=3_000_000, dim=32),
        }
    )


def plan_of(tables, *, workload=WORKLOAD, cluster=CLUSTER):
    return plan_cluster(tables, workload=workload, cluster=cluster, search=SEARCH)


def cells_held(tables, plan):
    """Count how often each of a table's cells is held, on its grid of piece corners."""
    shards, pieces = plan.shards, plan.shards.pieces
    for at in range(len(tables)):
        mine = np.flatnonzero(pieces.table_S == at)
        first_row, rows = shards.first_row_S[mine], pieces.rows_S[mine]
        first_column, columns = shards.first_column_S[mine], pieces.columns_S[mine]
        corners_r = np.unique([0, tables.rows_T[at], *first_row, *(first_row + rows)])
        corners_c = np.unique([0, tables.dim_T[at], *first_column, *(first_column + columns)])
        held = np.zeros((len(corners_r) - 1, len(corners_c) - 1), dtype=int)
        for row, size, column, width in zip(first_row, rows, first_column, columns, strict=True):
            inside_r = (corners_r[:-1] >= row) & (corners_r[:-1] < row + size)
            inside_c = (corners_c[:-1] >= column) & (corners_c[:-1] < column + width)
            held += np.outer(inside_r, inside_c)
        assert corners_r[-1] == tables.rows_T[at]
        assert corners_c[-1] == tables.dim_T[at]
        yield at, held, shards.rank_S[mine]


@pytest.mark.parametrize(
    "kinds", [KINDS, ("table_wise",), ("column_wise",), ("grid",), ("row_wise", "table_wise")]
)
def test_every_cell_of_every_table_is_held_once(kinds):
    tables = mixed()
    named = "*" if "table_wise" in kinds else "list*"  # not every table can be cut
    tables = apply_rules(tables, rules={named: RuleConfig(kinds=kinds)})
    plan = plan_of(tables, cluster=replace(CLUSTER, hbm_gib=40))
    seen = 0
    for at, held, ranks in cells_held(tables, plan):
        copies = CLUSTER.ranks if plan.cut.kind_T[at] == DATA_PARALLEL else 1
        assert (held == copies).all(), tables.names[at]
        assert len(set(ranks)) == len(ranks), tables.names[at]
        allowed = tables.allowed_TK[at]
        assert allowed[plan.cut.kind_T[at]]
        seen += 1
    assert seen == len(tables)


def test_pieces_of_rows_stay_in_one_node_or_go_to_all_ranks():
    tables = mixed()
    rules = {"giant": RuleConfig(kinds=("table_row_wise",)), "list*": RuleConfig(kinds=("grid",))}
    plan = plan_of(apply_rules(tables, rules=rules))
    for at, _, ranks in cells_held(tables, plan):
        nodes = sorted(ranks // CLUSTER.gpus_per_node)
        if plan.cut.kind_T[at] == TABLE_ROW_WISE:
            assert len(set(nodes)) == 1
            assert len(ranks) == 4
        if plan.cut.kind_T[at] == ROW_WISE:
            assert sorted(ranks) == list(range(8))
        if KINDS[plan.cut.kind_T[at]] == "grid":
            assert nodes == [0] * 4 + [1] * 4


def test_memory_is_kept_where_time_alone_would_not():
    """Heavy tables without traffic beside light ones with all of it."""
    groups = {
        "heavy": TableGroup(count=24, rows=8_000_000, dim=64, pooling=0.01),
        "light": TableGroup(count=40, rows=1000, dim=64, pooling=50),
    }
    tables = apply_rules(describe_groups(groups), rules={"*": RuleConfig(kinds=("table_wise",))})
    plan = plan_of(tables)
    assert plan.fits
    assert plan.estimate.hbm.max() <= CLUSTER.hbm_limit_bytes
    counts = np.bincount(plan.shards.rank_S[plan.shards.pieces.table_S < 24], minlength=8)
    assert counts.tolist() == [3] * 8  # three of two GiB go into 6.8


def units_of(seconds, *, hbm):
    size = len(seconds)
    return Units(
        table_U=np.arange(size),
        column_U=np.zeros(size, dtype=np.int64),
        span_U=np.ones(size, dtype=np.int64),
        start_U=np.zeros(size, dtype=np.int64),
        seconds_U=np.array(seconds, dtype=np.float64),
        hbm_U=np.full(size, float(hbm)),
        host_U=np.zeros(size),
    )


@pytest.mark.parametrize("seed", range(5))
def test_longest_first_keeps_grahams_bound_and_swaps_improve(seed):
    """At most 4/3 - 1/(3 ranks) of the best, which is no less than the mean or the longest."""
    seconds = np.random.default_rng(seed).lognormal(sigma=1.5, size=200)
    units = units_of(seconds, hbm=1.0)
    placed = place_units(units, base_bytes=0.0, cluster=CLUSTER)
    swapped = swap_units(placed, base_bytes=0.0, rounds=300, cluster=CLUSTER)
    best = max(seconds.sum() / 8, seconds.max())
    before, after = (
        np.bincount(one.start_U, weights=seconds, minlength=8).max() for one in (placed, swapped)
    )
    assert before <= (4 / 3 - 1 / 24) * best
    assert after <= before
    assert np.isin(swapped.start_U, np.arange(8)).all()


def test_swaps_find_what_longest_first_cannot():
    """Five pieces on two ranks: longest first gives 3+2+2 and 3+2, one swap 3+3 and 2+2+2."""
    two = replace(CLUSTER, nodes=1, gpus_per_node=2)
    units = replace(units_of([3, 3, 2, 2, 2], hbm=1.0), start_U=np.array([0, 1, 0, 1, 0]))
    placed = place_units(units, base_bytes=0.0, cluster=two)
    first = np.bincount(placed.start_U, weights=units.seconds_U, minlength=2)
    assert sorted(first) == [5, 7]
    swapped = swap_units(units, base_bytes=0.0, rounds=10, cluster=two)
    load = np.bincount(swapped.start_U, weights=units.seconds_U, minlength=2)
    assert sorted(load) == [6, 6]


def test_swaps_respect_memory():
    two = replace(CLUSTER, nodes=1, gpus_per_node=2)
    units = units_of([3, 3, 2], hbm=4 * 2**30)
    placed = replace(units, start_U=np.array([0, 1, 1]))
    full = swap_units(placed, base_bytes=0.0, rounds=10, cluster=two)
    assert full.start_U.tolist() == [0, 1, 1]


def test_host_tier_is_used_when_told():
    tables = apply_rules(mixed(), rules={"giant": RuleConfig(kernels=("fused_uvm_caching",))})
    plan = plan_of(tables)
    assert plan.cut.host_T.tolist() == [name == "giant" for name in tables.names]
    assert plan.estimate.host.sum() == 60_000_000 * 64 * 4
    rows = placement_of(tables, plan)["tables"]
    on_host = [row for row in rows if row["kernel"] == "fused_uvm_caching"]
    assert [(row["name"], row["cache_ratio"]) for row in on_host] == [("giant", 0.2)]


def test_host_tier_takes_the_coldest_tables_and_no_more_than_needed():
    groups = {
        "cold": TableGroup(count=10, rows=10_000_000, dim=64, pooling=0.1),
        "warm": TableGroup(count=10, rows=10_000_000, dim=64, pooling=5),
    }
    both = {"*": RuleConfig(kernels=("fused", "fused_uvm_caching"))}
    tables = apply_rules(describe_groups(groups), rules=both)
    roomy = plan_of(tables)
    assert roomy.fits
    assert not roomy.cut.host_T.any()
    tight = plan_of(tables, cluster=replace(CLUSTER, hbm_gib=6))
    assert tight.fits
    assert 0 < tight.cut.host_T.sum() < 10
    assert not tight.cut.host_T[10:].any()


def test_what_does_not_fit_is_advised_ranks_that_do():
    tables = describe_groups({"big": TableGroup(count=20, rows=15_000_000, dim=64)})
    plan = plan_of(tables)
    assert not plan.fits
    changes = find_changes(tables, workload=WORKLOAD, cluster=CLUSTER, search=SEARCH)
    more = changes[0]
    assert more.fits
    assert more.ranks > CLUSTER.ranks
    nodes = more.ranks // CLUSTER.gpus_per_node
    assert plan_of(tables, cluster=replace(CLUSTER, nodes=nodes)).fits
    assert not plan_of(tables, cluster=replace(CLUSTER, nodes=nodes - 1)).fits
    words = advise(plan, cluster=CLUSTER, changes=changes)
    assert f"{more.ranks} ranks ({nodes} nodes)" in words
    half = next(change for change in changes if "fp16" in change.what)
    again = plan_of(tables, workload=replace(WORKLOAD, table_precision="fp16"))
    assert half.fits == again.fits


def test_the_same_plan_comes_twice():
    one, two = plan_of(mixed()), plan_of(mixed())
    assert (one.shards.rank_S == two.shards.rank_S).all()
    assert one.estimate.step_seconds == two.estimate.step_seconds


def test_figures_add_up():
    tables = mixed()
    plan = plan_of(tables)
    figures = plan_figures(plan, cluster=CLUSTER)
    parts = figures["per_rank"]["memory_bytes"].values()
    assert all(len(each) == 8 for each in parts)
    assert max(map(sum, zip(*parts, strict=True))) == pytest.approx(figures["max_rank_bytes"])
    assert sum(figures["phase_seconds"].values()) == pytest.approx(
        figures["predicted_step_seconds"]
    )
    assert figures["bottleneck"]["seconds"] == max(figures["phase_seconds"].values())
    rows = placement_of(tables, plan)["tables"]
    assert [row["name"] for row in rows] == list(tables.names)
    away = [row for row in rows if row["kind"] in ("table_wise", "column_wise")]
    assert all(len(row["ranks"]) == row["column_parts"] for row in away)


def test_groups_draw_what_they_say():
    group = TableGroup(count=50, min_rows=10, max_rows=10_000, total_rows=123_456, seed=3, dim=8)
    rows = group.draw_rows()
    assert rows.sum() == 123_456
    assert (rows == group.draw_rows()).all()
    zipf = TableGroup(count=4, min_rows=30, max_rows=100, spread="zipf", dim=8)
    assert zipf.draw_rows().tolist() == [100, 50, 33, 30]


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"nothing*": RuleConfig()}, "nothing"),
        ({"ids": RuleConfig(kinds=("grid",))}, "table ids"),
        ({"field_*": RuleConfig(kinds=("row_wise",))}, "row_wise"),
    ],
)
def test_rules_that_cannot_hold_are_refused(rules, words):
    with pytest.raises(UserError, match=words):
        plan_of(apply_rules(mixed(), rules=rules))


def test_no_table_is_refused():
    with pytest.raises(UserError, match="no table"):
        describe_groups({})
