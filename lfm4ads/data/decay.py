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

from lfm4ads.core.ranks import Ranks
from lfm4ads.data.owner import exchange_rows

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]

Read = Literal["layernorm", "l2", "mean", "sum"]

MERGE_NUMBERS = 65_536
"""Numbers merged at a time, so that they stay in cache; half the time of all at once at width 64.
"""
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


def decay(later: Int64s, earlier: Int64s, *, half_life: float | None) -> Float64s:
    """Return exp(-ln 2 (later - earlier) / half-life), in [0, 1]."""
    if half_life is None:
        return np.ones(len(earlier))
    return np.exp2(-(distance(later, earlier) / half_life))


def distance(later: Int64s, earlier: Int64s) -> npt.NDArray[np.uint64]:
    """Return later - earlier; unsigned, because it needs 64 bits of its own."""
    return later.astype(np.uint64) - earlier.astype(np.uint64)


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
        kept = decay(time[rows], part.time, half_life=half_life)
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
