"""Streamed, batched, merged and sharded aggregation agree; what a consumer reads is right."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.data import owner as owner_module
from lfm4ads.data.decay import empty_state, merge, merge_all, read, route
from lfm4ads.data.owner import owner
from lfm4ads.data.sums import fold_events
from tests.gloo import run_ranks

HOUR = 3_600_000
HALF_LIVES = [None, 6.0 * HOUR]


@dataclass
class Events:
    keys: np.ndarray
    vectors: np.ndarray
    times: np.ndarray

    def take(self, rows):
        return Events(self.keys[rows], self.vectors[rows], self.times[rows])

    def fold(self, half_life):
        return fold_events(self.keys, self.vectors, self.times, half_life=half_life)


def make_events(seed, *, rows=400, keys=37, dim=5):
    """Times repeat and arrive shuffled; keys are far apart, negative and near the ends of int64."""
    rng = np.random.default_rng(seed)
    known = np.concatenate([rng.integers(-(2**62), 2**62, keys - 2), [2**63 - 1, -(2**63)]])
    return Events(
        known[rng.integers(0, keys, rows)],
        rng.normal(size=(rows, dim)).astype(np.float32),
        1_650_000_000_000 + rng.integers(0, 48, rows) * HOUR,
    )


def streamed(events, half_life):
    """One event at a time: k = exp(-lambda dt); S <- k S + c; Z <- k Z + 1."""
    states = {}
    for key, vector, time in zip(
        events.keys.tolist(), events.vectors, events.times.tolist(), strict=True
    ):
        total, weight, last, count = states.get(key, (0.0, 0.0, time, 0))
        rate = 0.0 if half_life is None else math.log(2) / half_life
        later = max(last, time)
        kept, late = math.exp(-rate * (later - last)), math.exp(-rate * (later - time))
        states[key] = (
            kept * total + late * vector.astype(np.float64),
            kept * weight + late,
            later,
            count + 1,
        )
    return states


def assert_same(a, b, tolerance=1e-12):
    np.testing.assert_array_equal(a.keys, b.keys)
    np.testing.assert_array_equal(a.time, b.time)
    np.testing.assert_array_equal(a.events, b.events)
    np.testing.assert_allclose(a.weight, b.weight, rtol=tolerance)
    np.testing.assert_allclose(a.sum, b.sum, rtol=tolerance, atol=tolerance)


def partials(events, parts, seed):
    where = np.random.default_rng(seed).integers(0, parts, len(events.keys))
    return [events.take(where == part) for part in range(parts)]


@pytest.mark.parametrize("half_life", HALF_LIVES)
@pytest.mark.parametrize("seed", range(5))
def test_batched_is_streamed_for_any_arrival(seed, half_life):
    events = make_events(seed)
    state = events.fold(half_life)
    reference = streamed(events, half_life)
    assert state.keys.tolist() == sorted(reference)
    for row, key in enumerate(state.keys.tolist()):
        total, weight, last, count = reference[key]
        np.testing.assert_allclose(state.sum[row], total, rtol=1e-12, atol=1e-12)
        assert state.weight[row] == pytest.approx(weight, rel=1e-12)
        assert (state.time[row], state.events[row]) == (last, count)


@pytest.mark.parametrize("half_life", HALF_LIVES)
@pytest.mark.parametrize("parts", [2, 3, 7, 400])
def test_merged_partials_are_batched(parts, half_life):
    events = make_events(parts)
    states = [part.fold(half_life) for part in partials(events, parts, seed=parts)]
    order = np.random.default_rng(0).permutation(parts)
    merged = merge_all([states[index] for index in order], half_life=half_life)
    assert_same(merged, events.fold(half_life))


def test_merge_is_commutative_and_leaves_its_sides_alone():
    a, b = (make_events(seed, keys=11).fold(6.0 * HOUR) for seed in (1, 2))
    before = a.sum.copy(), b.sum.copy()
    assert_same(merge(a, b, half_life=6.0 * HOUR), merge(b, a, half_life=6.0 * HOUR))
    np.testing.assert_array_equal(a.sum, before[0])
    np.testing.assert_array_equal(b.sum, before[1])


def test_a_late_event_weighs_what_its_age_says():
    keys, vectors = np.array([7]), np.ones((1, 2), np.float32)
    now = fold_events(keys, vectors, np.array([12 * HOUR]), half_life=6.0 * HOUR)
    late = fold_events(keys, 8 * vectors, np.array([0]), half_life=6.0 * HOUR)
    merged = merge(now, late, half_life=6.0 * HOUR)
    np.testing.assert_allclose(merged.sum, [[1 + 8 / 4, 1 + 8 / 4]])
    assert (merged.time[0], merged.weight[0], merged.events[0]) == (12 * HOUR, 1.25, 2)


def test_very_old_underflows_and_nothing_overflows():
    ends = np.array([np.iinfo(np.int64).min, np.iinfo(np.int64).max])
    with np.errstate(over="raise", invalid="raise"):
        state = fold_events(
            np.array([1, 1]), np.full((2, 1), 1e38, np.float32), ends, half_life=1.0
        )
    np.testing.assert_array_equal(state.sum, [[np.float64(np.float32(1e38))]])
    assert state.weight[0] == 1.0


def test_more_events_than_are_summed_at_a_time(monkeypatch):
    events = make_events(3, rows=1_000, keys=9)
    whole = events.fold(6.0 * HOUR)
    for numbers in (1, 5, 37, 504, 4_999):
        monkeypatch.setattr("lfm4ads.data.sums.BLOCK_NUMBERS", numbers)
        assert_same(events.fold(6.0 * HOUR), whole)


def test_no_events_and_no_width():
    none = make_events(0).take(np.zeros(0, np.int64)).fold(None)
    assert (len(none), none.dim) == (0, 5)
    some = make_events(0).fold(None)
    assert_same(merge(some, empty_state(5), half_life=None), some)
    counts = fold_events(
        np.array([5, 3, 5]), np.zeros((3, 0), np.float32), np.array([1, 9, 4]), half_life=None
    )
    assert (counts.keys.tolist(), counts.events.tolist(), counts.time.tolist()) == (
        [3, 5],
        [1, 2],
        [9, 4],
    )


def test_shapes_that_disagree_are_refused():
    events = make_events(0)
    with pytest.raises(ValueError, match="events disagree"):
        fold_events(events.keys[1:], events.vectors, events.times, half_life=None)
    with pytest.raises(ValueError, match="width 5 and 4"):
        merge(events.fold(None), empty_state(4), half_life=None)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_names_its_key(bad):
    events = make_events(0)
    events.vectors[17, 3] = bad
    with pytest.raises(UserError, match=f"key {events.keys[17]} hold NaN or infinity"):
        events.fold(6.0 * HOUR)


def test_reads():
    state = make_events(4).fold(6.0 * HOUR)
    state.sum[3] = 0.0
    total = torch.from_numpy(state.sum)
    expected = {
        "layernorm": torch.nn.functional.layer_norm(total, (5,)),
        "l2": torch.nn.functional.normalize(total, dim=1),
        "mean": total / torch.from_numpy(state.weight)[:, None],
        "sum": total,
    }
    for how, values in expected.items():
        got = read(state, how)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, values.numpy(), rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(got[3], np.zeros(5))


def test_the_mean_of_equal_vectors_is_the_vector():
    events = make_events(5)
    events.vectors[:] = [1, 2, 3, 4, 5]
    np.testing.assert_allclose(
        read(events.fold(6.0 * HOUR), "mean"), np.tile([1, 2, 3, 4, 5], (37, 1)), rtol=1e-6
    )


def test_regular_keys_spread_over_owners():
    for world in (2, 3, 8):
        counts = np.bincount(owner(np.arange(80_000) * world, world=world), minlength=world)
        assert counts.min() > 0.97 * 80_000 / world
    assert (owner(np.array([2**63 - 1, -(2**63), -1, 0]), world=1) == 0).all()


def _route(ranks, half_life, round_bytes):
    owner_module.ROUND_BYTES = round_bytes
    events = make_events(6)
    rows = np.random.default_rng(ranks.world).permutation(len(events.keys))[
        ranks.rank :: ranks.world
    ]
    if ranks.rank == 3:
        rows = rows[:0]
    mine = route(ranks, events.take(rows).fold(half_life), half_life=half_life)
    assert (owner(mine.keys, world=ranks.world) == ranks.rank).all()
    return mine, rows


@pytest.mark.multiproc
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize(("half_life", "round_bytes"), [(None, 1), (6.0 * HOUR, 300)])
def test_ranks_agree_with_one_process(world, half_life, round_bytes):
    results = run_ranks(_route, world, half_life, round_bytes)
    events = make_events(6).take(np.concatenate([rows for _, rows in results]))
    merged = merge_all([state for state, _ in results], half_life=half_life)
    assert sum(len(state) for state, _ in results) == len(merged)
    assert_same(merged, events.fold(half_life))
