"""Which rank holds which rectangle of a table."""

import numpy as np
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.shard.kernel import KernelConfig, cache_params, check_kernel
from lfm4ads.shard.layout import Load, check_cut, choose_groups, cut, fills, num_column_shards

KINDS = (
    "table_wise",
    "row_wise",
    "column_wise",
    "table_row_wise",
    "table_column_wise",
    "grid",
)


def load_of(world, *, host_ranks=None, numbers=None):
    return Load(numbers=numbers or [0] * world, host_ranks=host_ranks or world)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("world", "host_ranks"), [(1, 1), (2, 2), (4, 2), (6, 3), (8, 4)])
def test_pieces_cover_every_cell_of_a_table_once(kind, world, host_ranks):
    groups = choose_groups(kind, dim=16, load=load_of(world, host_ranks=host_ranks))
    seen = np.zeros((33, 16), dtype=int)
    for piece in cut(groups, shape=(33, 16)):
        rows = slice(piece.first_row, piece.first_row + piece.rows)
        seen[rows, piece.first_column : piece.first_column + piece.columns] += 1
        assert piece.columns % 4 == 0
        assert 0 <= piece.rank < world
    assert (seen == 1).all()


def test_a_grid_cuts_columns_over_hosts_and_rows_within_one():
    load = load_of(4, host_ranks=2, numbers=[9, 9, 0, 0])
    assert choose_groups("grid", dim=8, load=load) == [[2, 3], [0, 1]]
    assert choose_groups("grid", dim=4, load=load) == [[2, 3]]
    assert choose_groups("table_row_wise", dim=8, load=load) == [[2, 3]]
    assert choose_groups("row_wise", dim=8, load=load) == [[0, 1, 2, 3]]


def test_columns_of_one_host_go_to_its_emptiest_ranks():
    load = load_of(4, host_ranks=2, numbers=[9, 9, 5, 1])
    assert choose_groups("table_column_wise", dim=8, load=load) == [[3], [2]]
    assert choose_groups("column_wise", dim=8, load=load) == [[3], [2]]
    assert choose_groups("table_wise", dim=8, load=load) == [[3]]


@pytest.mark.parametrize(
    ("rows", "ranks", "wanted"),
    [(4, 4, True), (3, 4, False), (9, 4, False), (10, 4, True), (5, 4, False), (1, 1, True)],
)
def test_blocks_that_leave_a_rank_empty_are_known(rows, ranks, wanted):
    """Nine rows on four ranks are 3, 3, 3, 0: TorchRec then crashes or learns something else."""
    sizes = [piece.rows for piece in cut([list(range(ranks))], shape=(rows, 4))]
    assert sum(sizes) == rows
    assert fills(rows, ranks) == wanted == (min(sizes) > 0)


@pytest.mark.parametrize(
    ("kind", "shape", "world", "host_ranks", "wanted"),
    [
        ("row_wise", (9, 8), 4, 4, "table t has 9 rows, too few for row_wise on 4 ranks;"),
        ("grid", (5, 8), 8, 4, "table t has 5 rows, too few for grid on 4 ranks;"),
        ("table_row_wise", (1, 8), 2, 2, "1 rows, too few for table_row_wise on 2 ranks;"),
        ("table_wise", (9, 6), 1, 1, "table t has dim 6, which is no multiple of 4; round it up"),
        ("grid", (99, 8), 5, 2, "5 ranks are not whole hosts of 2;"),
    ],
)
def test_what_cannot_hold_is_refused_in_a_sentence(kind, shape, world, host_ranks, wanted):
    with pytest.raises(UserError, match=wanted) as caught:
        check_cut("t", kind=kind, shape=shape, load=load_of(world, host_ranks=host_ranks))
    assert caught.value.everywhere
    check_cut("t", kind="table_wise", shape=(1, 8), load=load_of(4))


def test_column_shards_are_as_many_as_widths_of_four_allow():
    assert [num_column_shards(dim, most=4) for dim in (4, 8, 12, 16, 20)] == [1, 2, 3, 4, 1]


def test_a_cache_share_that_would_be_ignored_is_refused():
    with pytest.raises(ValueError, match="fused_uvm has no cache"):
        KernelConfig(kind="fused_uvm", cache_ratio=0.1)
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 1.5"):
        KernelConfig(kind="fused_uvm_caching", cache_ratio=1.5)
    params = cache_params(KernelConfig(kind="fused_uvm_caching", cache_ratio=0.1))
    assert params is not None
    assert params.load_factor == 0.1
    assert cache_params(KernelConfig()) is None


def test_tables_on_an_ssd_are_refused_in_a_sentence():
    with pytest.raises(UserError, match="table t has kernel key_value, which does not run on CPU"):
        check_kernel(KernelConfig(kind="key_value"), table="t")
