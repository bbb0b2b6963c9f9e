"""Time-decayed sums of vectors per key, as a state that merges in any order.

The user and item cross representations are pooled over events with a time-interval decay (arXiv
2508.14948; its constants are not public). Per key, with lambda = ln 2 / half-life and t_last the
latest event:

    S = sum_j exp(-lambda (t_last - t_j)) c_j        Z = sum_j exp(-lambda (t_last - t_j))

Two states merge by decaying both to the later t_last and adding, so partials of any split of the
events, in any order, give the same result: shards, days and late events are all the same case. Only
weights <= 1 occur, so a very old event underflows to 0 and nothing overflows.

A time is what the slot's clock shows: milliseconds, or an event's ordinal among those of its key
(``data/ordinals.py``), which is the decay per event of the public code. Half-lives are in its unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.owner import exchange_rows

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]

Read = Literal["layernorm", "l2", "mean", "sum"]

FOLD_ROWS = 8_192
"""Events summed at a time: their float64 copy stays in cache, a hot key cannot make it large."""
MERGE_NUMBERS = 65_536
"""Numbers merged at a time, for the same reason; half the time of all at once at width 64."""
LAYERNORM_EPSILON = 1e-5
"""As torch.nn.functional.layer_norm."""


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """Decayed sums of K keys; a state of width 0 just counts events."""

    keys: Int64s
    """(K,) sorted, unique."""
    sum: Float64s
    """(K, D) S at ``time``."""
    weight: Float64s
    """(K,) Z at ``time``; at least 1."""
    time: Int64s
    """(K,) the latest event, in milliseconds or as an ordinal."""
    events: Int64s
    """(K,) how many events were folded in."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def dim(self) -> int:
        """Width D."""
        return self.sum.shape[1]

    def take(self, rows: slice | Int64s | npt.NDArray[np.bool_]) -> "State":
        """Return the state of some rows, which must be in ascending order."""
        return State(
            keys=self.keys[rows],
            sum=self.sum[rows],
            weight=self.weight[rows],
            time=self.time[rows],
            events=self.events[rows],
        )


def empty_state(dim: int) -> State:
    """Return the state of no key."""
    none = np.zeros(0, dtype=np.int64)
    return State(keys=none, sum=np.zeros((0, dim)), weight=np.zeros(0), time=none, events=none)


def fold_events(
    keys: Int64s, vectors: Float32s, times: Int64s, *, half_life: float | None
) -> State:
    """Fold events, in any order, into the state of their keys.

    Args:
        keys: (N,) the key of each event.
        vectors: (N, D) what each event adds, c_j; D may be 0 to count events only.
        times: (N,) milliseconds, or ordinals.
        half_life: Milliseconds or events in which a weight halves; None sums without decay.

    Raises:
        UserError: A vector holds NaN or infinity. Ranks may fail alone: call it inside
            ``ranks.together()``.
    """
    if not len(keys) == len(vectors) == len(times) or vectors.ndim != 2:
        raise ValueError(
            f"events disagree: keys {keys.shape}, vectors {vectors.shape}, times {times.shape}"
        )
    if len(keys) == 0:
        return empty_state(vectors.shape[1])
    order = np.argsort(keys, kind="stable")
    sorted_keys, sorted_times = keys[order], times[order]
    first = np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]])
    starts, segments = np.flatnonzero(first), np.cumsum(first) - 1
    last = np.maximum.reduceat(sorted_times, starts)
    weights = _decay(last[segments], sorted_times, half_life=half_life)
    state = State(
        keys=sorted_keys[starts].astype(np.int64, copy=False),
        sum=_segment_sums(vectors, order, weights=weights, starts=starts),
        weight=np.add.reduceat(weights, starts),
        time=last.astype(np.int64, copy=False),
        events=np.diff(starts, append=len(keys)),
    )
    _refuse_not_finite(state)
    return state


def _segment_sums(
    vectors: Float32s, order: Int64s, *, weights: Float64s, starts: Int64s
) -> Float64s:
    """Sum weighted rows between ``starts``; 3.5 times the speed of np.add.reduceat at width 64."""
    sums = np.zeros((len(starts), vectors.shape[1]))
    if vectors.shape[1] == 0:
        return sums
    for low in range(0, len(order), FOLD_ROWS):
        high = min(low + FOLD_ROWS, len(order))
        first = int(np.searchsorted(starts, low, side="right")) - 1
        stop = int(np.searchsorted(starts, high, side="left"))
        bounds = np.clip(np.append(starts[first:stop], high) - low, 0, None)
        shape = (stop - first, high - low)
        matrix = csr_array((weights[low:high], np.arange(high - low), bounds), shape=shape)
        sums[first:stop] += matrix @ vectors[order[low:high]].astype(np.float64)
    return sums


def _refuse_not_finite(state: State) -> None:
    bad = ~np.isfinite(state.sum).all(axis=1)
    if bad.any():
        raise UserError(
            f"the vectors of key {state.keys[bad][0]} hold NaN or infinity; the upstream model has "
            "diverged, dump from an earlier checkpoint"
        )


def _decay(later: Int64s, earlier: Int64s, *, half_life: float | None) -> Float64s:
    """Return exp(-ln 2 (later - earlier) / half-life), in [0, 1]."""
    if half_life is None:
        return np.ones(len(earlier))
    # Unsigned, because the distance of two int64 times needs 64 bits of its own.
    elapsed = later.astype(np.uint64) - earlier.astype(np.uint64)
    return np.exp2(-(elapsed / half_life))


def merge(a: State, b: State, *, half_life: float | None) -> State:
    """Return the state of both's events: decay each to the later time of its key, then add."""
    if a.dim != b.dim:
        raise ValueError(f"states of width {a.dim} and {b.dim} do not merge")
    if len(a) == 0 or len(b) == 0:
        return b if len(a) == 0 else a
    keys = union(a.keys, b.keys)
    rows_a, rows_b = np.searchsorted(keys, a.keys), np.searchsorted(keys, b.keys)
    time = np.full(len(keys), np.iinfo(np.int64).min)
    time[rows_a] = a.time
    time[rows_b] = np.maximum(time[rows_b], b.time)
    weight, events = np.zeros(len(keys)), np.zeros(len(keys), dtype=np.int64)
    total = np.zeros((len(keys), a.dim))
    for rows, part in ((rows_a, a), (rows_b, b)):
        kept = _decay(time[rows], part.time, half_life=half_life)
        weight[rows] += kept * part.weight
        events[rows] += part.events
        _add_rows(total, part.sum, rows=rows, kept=kept, fresh=part is a)
    return State(keys=keys, sum=total, weight=weight, time=time, events=events)


def _add_rows(
    total: Float64s, part: Float64s, *, rows: Int64s, kept: Float64s, fresh: bool
) -> None:
    """Add decayed rows in place, so many at a time that what is in between stays in cache.

    ``fresh`` rows are zero so far: they need not be read.
    """
    if part.shape[1] == 0:
        return
    step = max(1, MERGE_NUMBERS // part.shape[1])
    for low in range(0, len(part), step):
        some = slice(low, low + step)
        decayed = kept[some, None] * part[some]
        if fresh:
            total[rows[some]] = decayed
        else:
            total[rows[some]] += decayed


def union(a: Int64s, b: Int64s) -> Int64s:
    """Return the sorted union of sorted keys; a stable sort of two runs is a linear merge."""
    both = np.concatenate([a, b])
    both.sort(kind="stable")
    return both[np.concatenate([[True], both[1:] != both[:-1]])] if len(both) else both


def merge_all(states: Sequence[State], *, half_life: float | None) -> State:
    """Merge at least one state, left to right."""
    return reduce(lambda a, b: merge(a, b, half_life=half_life), states)


def route(ranks: Ranks, state: State, *, half_life: float | None) -> State:
    """Send partial states to the owners of their keys and merge them there in rank order.

    Collective. Afterwards each key lives on one rank, ``owner(key, world=ranks.world)``.
    """
    columns = {
        "keys": state.keys,
        "sum": state.sum,
        "weight": state.weight,
        "time": state.time,
        "events": state.events,
    }
    return merge_all([State(**rows) for rows in exchange_rows(ranks, columns)], half_life=half_life)


def read(state: State, how: Read) -> Float32s:
    """Return the representation (K, D) a consumer sees; a zero sum reads as zeros."""
    return read_sums(state.sum, state.weight, how)


def read_sums(sums: npt.NDArray[np.floating], weights: Float64s, how: Read) -> Float32s:
    """Return what ``read`` does for sums (K, D) and weights (K,) that are not in a State.

    ``layernorm`` has no affine; ``l2`` gives unit rows; ``mean`` is S / Z.
    """
    total = np.asarray(sums, dtype=np.float64)
    match how:
        case "sum":
            result = total
        case "mean":
            result = total / np.where(weights > 0, weights, 1.0)[:, None]
        case "l2":
            norm = np.linalg.norm(total, axis=1, keepdims=True)
            result = total / np.where(norm > 0, norm, 1.0)
        case "layernorm":
            centred = total - total.mean(axis=1, keepdims=True)
            variance = np.square(centred).mean(axis=1, keepdims=True)
            result = centred / np.sqrt(variance + LAYERNORM_EPSILON)
    return result.astype(np.float32)
