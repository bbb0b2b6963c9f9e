"""Sums kept at a reference of their own are the decayed sums at the last event."""

import numpy as np
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.sums import MAX_AHEAD, DecayedSums


def expected(keys, vectors, times, half_life):
    """S and Z by the formula of data/decay.py."""
    result = {}
    for key in np.unique(keys):
        mine = keys == key
        weights = 2.0 ** (-(times[mine].max() - times[mine]) / half_life)
        result[int(key)] = (weights @ vectors[mine].astype(np.float64), weights.sum())
    return result


def fold(keys, vectors, times, *, half_life, step, parts=1):
    sums = DecayedSums(vectors.shape[1], half_life=half_life)
    for start in range(0, len(keys), step):
        some = slice(start, start + step)
        sums.add(keys[some], np.array_split(vectors[some], parts), times[some])
    return sums.state()


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("step", [1, 13, 500])
@pytest.mark.parametrize("half_life", [0.5, 10.0, 1e5])
def test_references_move_up(half_life, step, parts):
    """500 events over 2 to 400,000 half-lives of the shortest; some come late."""
    rng = np.random.default_rng(step)
    keys = rng.integers(0, 7, 500) * 2**40
    times = np.sort(rng.integers(0, 20_000, 500))
    late = rng.random(500) < 0.2
    times[late] -= rng.integers(0, 5_000, int(late.sum()))
    vectors = rng.normal(size=(500, 4)).astype(np.float32)
    state = fold(keys, vectors, times, half_life=half_life, step=step, parts=parts)
    for key, total, weight in zip(state.keys.tolist(), state.sum, state.weight, strict=True):
        want, heavy = expected(keys, vectors, times, half_life)[key]
        np.testing.assert_allclose(total, want, rtol=1e-13, atol=1e-13)
        assert weight == pytest.approx(heavy, rel=1e-13)
        assert weight >= 1.0


def test_weights_stay_small_however_late_events_are():
    """Without moved references the sum of events 2,000 half-lives apart would overflow."""
    times = np.arange(0, 2_000, 1)
    state = fold(
        np.zeros(2_000, np.int64),
        np.full((2_000, 1), 1e38, np.float32),
        times,
        half_life=1.0,
        step=1,
    )
    np.testing.assert_allclose(state.sum, [[2 * np.float64(np.float32(1e38))]])
    sums = DecayedSums(1, half_life=1.0)
    for time in times:
        sums.add(np.zeros(1, np.int64), [np.ones((1, 1), np.float32)], np.array([time]))
        assert sums._weight.max() <= 2 ** (MAX_AHEAD + 1)


def test_ends_of_int64():
    ends = np.array([np.iinfo(np.int64).min, np.iinfo(np.int64).max])
    for times in (ends, ends[::-1]):
        for step in (1, 2):
            state = fold(
                np.array([3, 3]), np.ones((2, 2), np.float32), times, half_life=1e18, step=step
            )
            half_lives = (2.0**64 - 1) / 1e18
            np.testing.assert_allclose(state.sum, np.full((1, 2), 1 + 2.0**-half_lives))


def test_a_state_is_a_copy():
    sums = DecayedSums(1, half_life=None)
    sums.add(np.array([1]), [np.ones((1, 1), np.float32)], np.array([5]))
    before = sums.state()
    sums.add(np.array([1, 0]), [np.ones((2, 1), np.float32)], np.array([9, 9]))
    assert (before.sum.tolist(), before.time.tolist()) == ([[1.0]], [5])
    after = sums.state()
    assert (after.keys.tolist(), after.sum.tolist()) == ([0, 1], [[1.0], [2.0]])


def test_what_is_not_finite_names_its_key():
    sums = DecayedSums(2, half_life=1.0)
    vectors = np.ones((3, 2), np.float32)
    vectors[1] = np.inf, -np.inf
    sums.add(np.array([5, 6, 7]), [vectors], np.array([1, 2, 3]))
    with pytest.raises(UserError, match="key 6 hold NaN or infinity"):
        sums.state()


@pytest.mark.parametrize("num_threads", [2, 3])
def test_threads_change_no_bit(monkeypatch, num_threads):
    """Vectors come in three arrays, one of them empty; blocks are shorter than any."""
    rng = np.random.default_rng(num_threads)
    keys, times = rng.integers(0, 50, 900), rng.integers(0, 10_000, 900)
    vectors = rng.normal(size=(900, 3)).astype(np.float32)
    monkeypatch.setattr("lfm4ads.data.sums.BLOCK_NUMBERS", 60)
    states = []
    for threads in (1, num_threads):
        monkeypatch.setattr("torch.get_num_threads", lambda threads=threads: threads)
        sums = DecayedSums(3, half_life=500.0)
        sums.add(keys, [vectors[:100], vectors[:0], vectors[100:]], times)
        states.append(sums.state())
    np.testing.assert_array_equal(states[0].sum, states[1].sum)
    np.testing.assert_array_equal(states[0].weight, states[1].weight)
    for key, total in zip(states[1].keys.tolist(), states[1].sum, strict=True):
        np.testing.assert_allclose(total, expected(keys, vectors, times, 500.0)[key][0], rtol=1e-12)
