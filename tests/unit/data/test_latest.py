"""The newest vector per key, whatever the order, the split and the ranks."""

import numpy as np
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.latest import (
    empty_latest,
    fold_latest,
    merge_all_latest,
    merge_latest,
    route_latest,
)
from lfm4ads.data.owner import owner
from tests.gloo import run_ranks


def make_rows(seed, *, rows=300, keys=23, dim=3):
    rng = np.random.default_rng(seed)
    known = np.append(rng.integers(-(2**62), 2**62, keys - 1), 2**63 - 1)
    return (
        known[rng.integers(0, keys, rows)],
        rng.normal(size=(rows, dim)).astype(np.float32),
        rng.integers(0, 4, rows),  # few times, so most keys have ties
        rng.permutation(rows),
    )


def fold(rows, some=slice(None), *, tied=True):
    keys, vectors, times, ties = (column[some] for column in rows)
    return fold_latest(keys, vectors, times, ties=ties if tied else None)


def assert_same(a, b):
    for name in ("keys", "vector", "time", "tie"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_time_then_row_id_wins(seed):
    rows = make_rows(seed)
    newest = {}
    for key, vector, time, tie in zip(*rows, strict=True):
        if key not in newest or (time, tie) > newest[key][:2]:
            newest[key] = (time, tie, vector)
    latest = fold(rows)
    assert latest.keys.tolist() == sorted(newest)
    for row, key in enumerate(latest.keys):
        assert (latest.time[row], latest.tie[row]) == newest[key][:2]
        np.testing.assert_array_equal(latest.vector[row], newest[key][2])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("parts", [2, 5, 300])
def test_order_and_split_do_not_matter(parts, tied):
    rows = make_rows(parts)
    whole = fold(rows, tied=tied)
    rng = np.random.default_rng(1)
    assert_same(fold(rows, rng.permutation(300), tied=tied), whole)
    where = rng.integers(0, parts, 300)
    states = [fold(rows, where == part, tied=tied) for part in range(parts)]
    assert_same(merge_all_latest(states), whole)
    assert_same(merge_all_latest(states[::-1]), whole)


def test_empty_and_smallest_values():
    smallest = np.iinfo(np.int64).min
    one = fold_latest(
        np.array([4]), np.ones((1, 3), np.float32), np.array([smallest]), ties=np.array([smallest])
    )
    assert_same(merge_latest(one, empty_latest(3)), one)
    other = fold_latest(np.array([5]), np.ones((1, 3), np.float32), np.array([0]))
    np.testing.assert_array_equal(merge_latest(one, other).vector, np.ones((2, 3)))


def test_a_vector_that_is_not_finite_names_its_key():
    keys, vectors, times, ties = make_rows(0)
    vectors[:] = np.nan
    with pytest.raises(UserError, match=f"key {keys.min()} holds NaN"):
        fold_latest(keys, vectors, times, ties=ties)


def _route(ranks):
    rows = make_rows(8)
    mine = np.random.default_rng(ranks.world).permutation(300)[ranks.rank :: ranks.world]
    latest = route_latest(ranks, fold(rows, mine))
    assert (owner(latest.keys, world=ranks.world) == ranks.rank).all()
    return latest


@pytest.mark.multiproc
@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_agree_with_one_process(world):
    assert_same(merge_all_latest(run_ranks(_route, world)), fold(make_rows(8)))
