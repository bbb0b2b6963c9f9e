"""A day folded batch by batch is the day folded at once."""

import numpy as np
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.accumulate import SideAccumulator
from tests.unit.data.states import USER_SPECS, assert_same_side, make_day, states_of


def add_rows(accumulator, events, rows):
    keys, times, row_ids, vectors, ads = (
        events[name][rows] for name in ("keys", "times", "row_ids", "vectors", "ads")
    )
    some = keys % 3 > 0
    accumulator.count(keys, times=times)
    for name, kept, width in (("ur", some, 4), ("cr_ads", ads, 3), ("cr_all", ads | True, 2)):
        accumulator.add(
            name,
            keys=keys[kept],
            vectors=vectors[kept, :width],
            times=times[kept],
            row_ids=row_ids[kept],
        )


@pytest.mark.parametrize("fold_rows", [1, 40, 10_000])
@pytest.mark.parametrize("batch", [1, 17, 600])
def test_batches_are_the_whole_day(batch, fold_rows):
    events = make_day(20220408)
    order = np.random.default_rng(batch).permutation(600)
    accumulator = SideAccumulator(USER_SPECS, fold_rows=fold_rows)
    for start in range(0, 600, batch):
        add_rows(accumulator, events, order[start : start + batch])
    expected = states_of(events)["user"]
    assert_same_side(accumulator.finish(), expected, tolerance=1e-12)
    assert_same_side(accumulator.finish(), expected, tolerance=1e-12)


def test_nothing_added_is_empty():
    assert len(SideAccumulator(USER_SPECS).finish().keys) == 0


def test_a_row_takes_part_in_few_merges():
    """Memory and time: few states wait, whatever the number of folds."""
    events = make_day(20220408)
    accumulator = SideAccumulator(USER_SPECS, fold_rows=1)
    for row in range(600):
        add_rows(accumulator, events, slice(row, row + 1))
    assert len(accumulator._latest["ur"].states) <= 10


def test_bad_vectors_wait_for_the_end():
    events = make_day(20220408)
    events["vectors"][100] = np.nan
    accumulator = SideAccumulator(USER_SPECS, fold_rows=10)
    for start in range(0, 600, 10):
        add_rows(accumulator, events, slice(start, start + 10))
    with pytest.raises(UserError, match=f"key {events['keys'][100]} hold"):
        accumulator.finish()


def test_rows_may_follow_what_was_finished():
    events = make_day(20220408)
    accumulator = SideAccumulator(USER_SPECS, fold_rows=50)
    add_rows(accumulator, events, slice(0, 300))
    first = accumulator.finish()
    assert_same_side(first, states_of(events, slice(0, 300))["user"], tolerance=1e-12)
    before = first.decayed["cr_all"].sum.copy()
    add_rows(accumulator, events, slice(300, 600))
    assert_same_side(accumulator.finish(), states_of(events)["user"], tolerance=1e-12)
    np.testing.assert_array_equal(first.decayed["cr_all"].sum, before)
