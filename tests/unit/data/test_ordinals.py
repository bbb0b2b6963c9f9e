"""Decay per event is the public loop on any number of ranks, in any order of arrival."""

import numpy as np
import pytest

from lfm4ads.data import owner as owner_module
from lfm4ads.data.decay import empty_state, merge, merge_all, route
from lfm4ads.data.ordinals import _by_key, empty_tally, ordinals
from lfm4ads.data.slots import SlotRows
from lfm4ads.data.sums import fold_events
from tests.gloo import run_ranks
from tests.unit.data.states import one_rank

GROUPS, EVENTS, DIM = 3, 2, 4
GAMMA = 0.99
HALF_LIFE = np.log(2) / -np.log(GAMMA)
DAYS = (1, 2, 3)


def make_rows(day, *, rows=300):
    """Many rows share a time; some happened in the day before; some have no slot."""
    rng = np.random.default_rng(day)
    times = day * 100 + rng.integers(0, 20, rows)
    times[rng.random(rows) < 0.2] -= 100
    group = rng.integers(-1, GROUPS, rows)
    return {
        "user": np.random.default_rng(0).integers(0, 2**62, 23)[rng.integers(0, 23, rows)],
        "item": rng.integers(0, 9, rows),
        "time": times,
        "row_id": day * 1000 + rng.permutation(rows),
        "group": group,
        "marks": (group >= 0)[:, None] & np.stack([group > -2, rng.random(rows) < 0.3], axis=1),
        "vectors": rng.normal(size=(rows, DIM)).astype(np.float32),
        "day": np.full(rows, day),
    }


def take(rows, chosen):
    return {name: column[chosen] for name, column in rows.items()}


def slot_rows(rows):
    keys = {side: rows[side] for side in ("user", "item")}
    return SlotRows(
        keys=keys, **{name: rows[name] for name in ("time", "row_id", "group", "marks")}
    )


def looped(days, side):
    """The public code: S <- 0.99 S + c, an event at a time."""
    sums = {}
    for day in days:
        order = np.lexsort((day["row_id"], day["time"]))
        for row in order:
            for event in range(EVENTS):
                if day["marks"][row, event]:
                    slot = (int(day["group"][row]), event, int(day[side][row]))
                    total = GAMMA * sums.get(slot, np.zeros(DIM)) + day["vectors"][row]
                    sums[slot] = total
    return sums


def none_before(keys):
    return np.zeros((len(keys), GROUPS * EVENTS), dtype=np.int64)


def fold_day(ranks, rows, side, tally):
    """Return a state per (group, event) of this rank's rows, routed to the owners."""
    counted = ordinals(ranks, slot_rows(rows), side=side, tally=tally)
    assert ((counted > 0) == rows["marks"]).all()
    states = {}
    for group in range(GROUPS):
        for event in range(EVENTS):
            chosen = (rows["group"] == group) & rows["marks"][:, event]
            state = fold_events(
                rows[side][chosen],
                rows["vectors"][chosen],
                counted[chosen, event],
                half_life=HALF_LIFE,
            )
            states[group, event] = route(ranks, state, half_life=HALF_LIFE)
    return states


def fold_days(ranks, side, seed, round_bytes=1 << 20):
    """Shuffle each day over the ranks; the last day a new tally counts on from the states."""
    owner_module.ROUND_BYTES = round_bytes
    slots = [(group, event) for group in range(GROUPS) for event in range(EVENTS)]
    total = {slot: empty_state(DIM) for slot in slots}

    def from_states(keys):
        counts = np.zeros((len(keys), len(slots)), dtype=np.int64)
        for column, slot in enumerate(slots):
            for row, key in enumerate(keys):
                counts[row, column] = total[slot].events[total[slot].keys == key].sum()
        return counts

    tally = empty_tally(num_groups=GROUPS, num_events=EVENTS, before=none_before)
    for day in DAYS:
        rows = make_rows(day)
        order = np.random.default_rng(seed + day).permutation(len(rows["time"]))
        mine = take(rows, order[ranks.rank :: ranks.world])
        if day == DAYS[-1]:
            tally = empty_tally(num_groups=GROUPS, num_events=EVENTS, before=from_states)
        new = fold_day(ranks, mine, side, tally)
        total = {slot: merge(total[slot], new[slot], half_life=HALF_LIFE) for slot in slots}
    return total


def fold_sides(ranks, seed, round_bytes):
    return {side: fold_days(ranks, side, seed, round_bytes) for side in ("user", "item")}


def assert_is_loop(parts, side):
    expected = looped([make_rows(day) for day in DAYS], side)
    found = 0
    for group, event in parts[0]:
        state = merge_all([part[group, event] for part in parts], half_life=HALF_LIFE)
        np.testing.assert_array_equal(state.time, state.events)
        for key, total in zip(state.keys.tolist(), state.sum, strict=True):
            np.testing.assert_allclose(total, expected[group, event, key], rtol=1e-9, atol=1e-9)
            found += 1
    assert found == len(expected) > 50


@pytest.mark.multiproc
@pytest.mark.parametrize(("world", "round_bytes"), [(1, 1 << 20), (2, 100), (4, 1 << 20)])
def test_any_ranks_and_arrival_are_the_loop(world, round_bytes):
    results = run_ranks(fold_sides, world, world, round_bytes)
    for side in ("user", "item"):
        assert_is_loop([states[side] for states in results], side)


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_arrival(seed):
    assert_is_loop([fold_days(one_rank(), "user", seed)], "user")


def test_arrival_order_as_ordinals_is_not_the_loop():
    """The control: without the sort the comparison fails."""
    day = make_rows(1)
    chosen = (day["group"] == 0) & day["marks"][:, 0]
    keys = day["user"][chosen]
    arrival = np.array([(keys[: row + 1] == key).sum() for row, key in enumerate(keys)])
    state = fold_events(keys, day["vectors"][chosen], arrival, half_life=HALF_LIFE)
    expected = looped([day], "user")
    wrong = [
        np.abs(total - expected[0, 0, key]).max()
        for key, total in zip(state.keys.tolist(), state.sum, strict=True)
    ]
    assert max(wrong) > 1e-3


def test_no_rows():
    rows = take(make_rows(1), np.zeros(0, np.int64))
    tally = empty_tally(num_groups=GROUPS, num_events=EVENTS, before=none_before)
    counted = ordinals(one_rank(), slot_rows(rows), side="user", tally=tally)
    assert counted.shape == (0, EVENTS)


def test_a_late_event_comes_after_the_days_before():
    tally = empty_tally(num_groups=GROUPS, num_events=EVENTS, before=none_before)
    one = {
        "user": np.array([7, 7]),
        "item": np.array([1, 1]),
        "time": np.array([20, 10]),
        "row_id": np.array([1, 2]),
        "group": np.array([0, 0]),
        "marks": np.array([[True, False], [True, True]]),
    }
    first = ordinals(one_rank(), slot_rows(one), side="user", tally=tally)
    assert first.tolist() == [[2, 0], [1, 1]]
    late = one | {"time": np.array([5, 1])}
    assert ordinals(one_rank(), slot_rows(late), side="user", tally=tally).tolist() == [
        [4, 0],
        [3, 2],
    ]


@pytest.mark.parametrize("span", [1, 70_000, 2**31, 2**33, 2**62])
def test_rows_of_a_key_stay_in_order(span):
    """Near keys are sorted as numbers, far ones by the rows a table gives them."""
    rng = np.random.default_rng(3)
    keys = rng.integers(-span, span, 300)[rng.integers(0, 300, 5_000)]
    order = _by_key(keys)
    assert sorted(order.tolist()) == list(range(5_000))
    first = np.append(True, keys[order][1:] != keys[order][:-1])
    assert first.sum() == len(np.unique(keys))
    assert (np.diff(order)[~first[1:]] > 0).all()
