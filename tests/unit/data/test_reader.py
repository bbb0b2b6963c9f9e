"""Every row exactly once, in the same global steps on any number of ranks, from any step on."""

import numpy as np
import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.data.index import open_dataset, select_rows
from lfm4ads.data.reader import Reader, ReaderConfig, scoring
from tests.batches import ROW_TENSORS
from tests.unit.data.expected import records_of
from tests.unit.data.states import one_rank
from tests.worlds import tiny_table, with_column, with_value, write_table, write_tiny

DAY = 20260101
ROWS = 203
WORLDS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return open_dataset(write_tiny(tmp_path_factory.mktemp("reader"), rows=ROWS), one_rank())


def reader_of(dataset, *, rank=0, world=1, seed=5, final_labels=True, wait_days=None, **config):
    settings = ReaderConfig(**{"batch_size": 32, "lanes": 4, "window_rows": 24, **config})
    labels = {"final_labels": final_labels, "wait_days": wait_days}
    return Reader(dataset, config=settings, ranks=one_rank(rank, world), seed=seed, **labels)


def days_of(dataset, world, *, day=DAY, **options):
    """Return the batches of every rank."""
    where = {name: options.pop(name) for name in ("epoch", "start_step") if name in options}
    return [
        list(reader_of(dataset, rank=rank, world=world, **options).day(day, **where))
        for rank in range(world)
    ]


def rows_of(batch):
    return batch.row_id[batch.valid].tolist()


def steps_of(ranks):
    """Return the rows of every global step, over all ranks, sorted."""
    return [
        sorted(row for batch in batches for row in rows_of(batch))
        for batches in zip(*ranks, strict=True)
    ]


def order_of(dataset, **options):
    return [rows_of(batch) for batch in days_of(dataset, 1, **options)[0]]


def flat(steps):
    return [row for step in steps for row in step]


SHAPES = {
    "whole windows": {},
    "one row a lane": {"batch_size": 4, "window_rows": 1},
    "window within a row group": {"batch_size": 8, "window_rows": 10},
    "window of many row groups": {"window_rows": 10_000},
    "odd lanes": {"batch_size": 35, "lanes": 7, "window_rows": 13},
    "one step": {"batch_size": 1024},
    "in time order": {"shuffle": False},
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_row_once_in_the_same_steps_on_any_ranks(tiny, name):
    shape = SHAPES[name]
    alone = steps_of(days_of(tiny, 1, **shape))
    assert sorted(flat(alone)) == list(range(ROWS))
    batch_size = shape.get("batch_size", 32)
    assert all(len(step) <= batch_size for step in alone)
    for world in WORLDS:
        ranks = days_of(tiny, world, **shape)
        reader = reader_of(tiny, world=world, **shape)
        assert [len(batches) for batches in ranks] == [reader.num_steps(DAY)] * world
        sizes = {len(batch) for batches in ranks for batch in batches}
        assert sizes == {reader.local_batch_size}
        assert steps_of(ranks) == alone


@pytest.mark.parametrize("row_group_rows", [1, 7, 50, 1000])
@pytest.mark.parametrize("window_rows", [1, 16, 1000])
def test_row_groups_and_windows_of_any_size(tmp_path, row_group_rows, window_rows):
    folder = write_tiny(tmp_path, days=1, rows=91, row_group_rows=row_group_rows)
    dataset = open_dataset(folder, one_rank())
    steps = steps_of(days_of(dataset, 2, batch_size=16, window_rows=window_rows))
    assert sorted(flat(steps)) == list(range(91))
    for step in steps[:-2]:
        assert len(step) == 16, "only the end of a lane is short"


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("world", WORLDS)
def test_fewer_rows_than_lanes(tmp_path, rows, world):
    write_table(tmp_path, tiny_table(rows))
    dataset = open_dataset(tmp_path, one_rank())
    ranks = days_of(dataset, world, batch_size=8, lanes=8)
    assert steps_of(ranks) == [list(range(rows))]
    for batch in (batches[0] for batches in ranks):
        assert len(batch) == reader_of(dataset, world=world, batch_size=8, lanes=8).local_batch_size
        assert batch.sparse.stride() == len(batch)


def test_the_order_is_of_the_seed(tiny):
    order = order_of(tiny)
    assert order_of(tiny) == order
    others = [
        order_of(tiny, seed=6),
        order_of(tiny, epoch=1),
        order_of(tiny, seed=6, epoch=1),
        order_of(tiny, shuffle=False),
    ]
    for other in others:
        assert sorted(flat(other)) == sorted(flat(order))
        assert other != order
    assert len({str(one) for one in others}) == len(others)
    assert order_of(tiny, epoch=1) == order_of(tiny, epoch=1)


def test_days_lanes_and_windows_are_shuffled_apart(tiny):
    """Places inside a window, taken where windows are equally long, never repeat."""
    shape = {"batch_size": 16, "lanes": 4, "window_rows": 12}
    places = []
    for day, first in ((DAY, 0), (DAY + 1, ROWS)):
        for rank in range(4):
            batches = days_of(tiny, 4, day=day, **shape)[rank]
            lane = [row - first - ROWS * rank // 4 for row in flat(map(rows_of, batches))]
            windows = [lane[start : start + 12] for start in range(0, 48, 12)]
            for index, window in enumerate(windows):
                assert sorted(window) == list(range(12 * index, 12 * index + 12))
            places += [tuple(place % 12 for place in window) for window in windows]
    assert len(set(places)) == len(places) == 32


def test_without_shuffle_a_lane_is_in_time_order(tiny):
    for rank, batches in enumerate(days_of(tiny, 4, shuffle=False)):
        rows = flat(map(rows_of, batches))
        assert rows == list(range(ROWS * rank // 4, ROWS * (rank + 1) // 4))
        times = torch.cat([batch.time[batch.valid] for batch in batches])
        assert (times.diff() >= 0).all()


def assert_same(mine, other):
    """Bit for bit; NaN is NaN."""
    torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)


def assert_same_batch(mine, other):
    for name in ROW_TENSORS:
        assert_same(getattr(mine, name), getattr(other, name))
    assert mine.ages.keys() == other.ages.keys()
    for name, ages in mine.ages.items():
        assert_same(ages, other.ages[name])
    assert mine.sparse.keys() == other.sparse.keys()
    assert torch.equal(mine.sparse.values(), other.sparse.values())
    assert torch.equal(mine.sparse.lengths(), other.sparse.lengths())


@pytest.mark.parametrize("shuffle", [True, False])
def test_from_every_step_on_it_gives_exactly_the_rest(tiny, shuffle):
    """A window is three steps here, so restarts fall inside windows too."""
    shape = {"batch_size": 16, "window_rows": 12, "shuffle": shuffle}
    for world in (1, 2):
        whole = days_of(tiny, world, epoch=2, **shape)
        num_steps = len(whole[0])
        assert num_steps == 13
        for step in range(num_steps + 1):
            rest = days_of(tiny, world, epoch=2, start_step=step, **shape)
            for mine, before in zip(rest, whole, strict=True):
                assert len(mine) == num_steps - step
                for one, other in zip(mine, before[step:], strict=True):
                    assert_same_batch(one, other)


def test_a_stopped_run_goes_on_with_other_ranks(tiny):
    shape = {"batch_size": 16, "window_rows": 12}
    num_steps = reader_of(tiny, **shape).num_steps(DAY)
    for before, after in ((1, 3), (4, 1), (3, 2)):
        whole = days_of(tiny, before, **shape)
        for step in range(num_steps):
            read = steps_of([batches[:step] for batches in whole])
            rest = steps_of(days_of(tiny, after, start_step=step, **shape))
            assert sorted(flat(read + rest)) == list(range(ROWS))
            assert rest == steps_of(whole)[step:]


def test_one_reader_reads_a_day_again_and_again(tiny):
    reader = reader_of(tiny)
    first = [rows_of(batch) for batch in reader.day(DAY)]
    half = reader.day(DAY)
    next(half)
    half.close()
    other_day = [rows_of(batch) for batch in reader.day(DAY + 1)]
    assert sorted(flat(other_day)) == list(range(ROWS, 2 * ROWS))
    assert [rows_of(batch) for batch in reader.day(DAY)] == first


@pytest.mark.parametrize("domain", [0, 1])
@pytest.mark.parametrize("world", [1, 3])
def test_rows_of_one_domain_exactly(tiny, domain, world):
    name = tiny.schema.domains[domain]
    selected = select_rows(tiny, domains=[name], days=[DAY], ranks=one_rank())
    wanted = [one["row_id"] for one in records_of(tiny, DAY) if one["domain"] == domain]
    assert 0 < len(wanted) < ROWS
    ranks = days_of(selected, world)
    assert sorted(flat(steps_of(ranks))) == wanted
    assert steps_of(ranks) == steps_of(days_of(selected, 1))
    assert all((batch.domain[batch.valid] == domain).all() for one in ranks for batch in one)


def test_row_groups_without_the_domain(tmp_path):
    domains = [0] * 30 + [1] * 11 + [0] * 49
    write_table(tmp_path, with_column(tiny_table(90), "domain", domains, "int8"), row_group_rows=10)
    dataset = open_dataset(tmp_path, one_rank())
    selected = select_rows(dataset, domains=["ads"], days=[DAY], ranks=one_rank())
    assert sorted(flat(steps_of(days_of(selected, 2)))) == list(range(30, 41))
    none = with_column(tiny_table(90), "domain", [0] * 90, "int8")
    write_table(tmp_path, none, row_group_rows=10)
    selected = select_rows(dataset, domains=["ads"], days=[DAY], ranks=one_rank())
    assert days_of(selected, 2) == [[], []]
    assert [len(keys) for keys in reader_of(selected).keys(DAY)] == [0, 0]


@pytest.mark.parametrize("world", WORLDS)
def test_keys_hold_those_of_every_batch(tiny, world):
    records = records_of(tiny, DAY)
    for rank in range(world):
        reader = reader_of(tiny, rank=rank, world=world)
        users, items = reader.keys(DAY)
        for keys, name in ((users, "user"), (items, "item")):
            assert keys.dtype == np.int64
            assert (np.diff(keys) > 0).all()
            own = {key for one in reader.day(DAY) for key in getattr(one, name)[one.valid].tolist()}
            assert own <= set(keys.tolist()) <= {one[f"{name}_id"] for one in records}
            if world == 1:
                assert own == set(keys.tolist())


def test_keys_are_of_this_rank_s_row_groups(tmp_path):
    table = with_column(tiny_table(100), "user_id", [index // 10 for index in range(100)])
    write_table(tmp_path, table, row_group_rows=10)
    dataset = open_dataset(tmp_path, one_rank())
    readers = [reader_of(dataset, rank=rank, world=2, lanes=2) for rank in range(2)]
    assert [reader.keys(DAY)[0].tolist() for reader in readers] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
    ]


def test_a_fault_comes_out_of_the_thread(tmp_path):
    file = write_table(tmp_path, with_value(tiny_table(90), "user_id", -1, row=80))
    batches = reader_of(open_dataset(tmp_path, one_rank()), shuffle=False, lanes=1).day(DAY)
    seen = [rows_of(next(batches)) for _ in range(2)]
    assert flat(seen) == list(range(64))
    with pytest.raises(UserError, match=f"{file}, row group 1: column user_id has the negative"):
        list(batches)


def test_more_ranks_than_lanes(tiny):
    with pytest.raises(UserError) as caught:
        reader_of(tiny, world=5)
    assert str(caught.value) == (
        "reader.lanes is 4 but there are 5 ranks; pass reader.lanes=5 or more"
    )
    assert caught.value.everywhere


@pytest.mark.parametrize("lanes", [1, 4, 7])
def test_scoring_takes_large_steps_in_order(tiny, lanes):
    config = ReaderConfig(batch_size=2 * lanes, lanes=lanes)
    large = scoring(config)
    assert large.batch_size >= 8192
    assert (large.lanes, large.shuffle) == (lanes, False)
    reader = Reader(tiny, config=large, ranks=one_rank(), seed=5)
    assert [rows_of(batch) for batch in reader.day(DAY)] == [list(range(ROWS))]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"batch_size": 30}, "positive multiple of reader.lanes, got 30 and 8"),
        ({"batch_size": 0}, "positive multiple of reader.lanes, got 0 and 8"),
        ({"lanes": 0}, "positive multiple of reader.lanes, got 4096 and 0"),
        ({"window_rows": 0}, "reader.window_rows must be positive, got 0"),
    ],
)
def test_settings_that_make_no_batches(config, words):
    with pytest.raises(ValueError, match=words):
        ReaderConfig(**config)
