"""Decayed sums of many keys, added to where they lie: how events become a State.

A key's sum is kept at a time of its own, its reference, so that an event is added without a pass
over what is there: it weighs 2^((t - reference) / half-life), more than 1 when it is later. When
the latest event is ``MAX_AHEAD`` half-lives after the reference, the reference moves up to it.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.data.decay import Float32s, Float64s, Int64s, State, decay, distance, empty_state
from lfm4ads.data.keyrows import KeyRows

MAX_AHEAD = 8.0
"""Half-lives: weights stay below 256, and rounding of their exponents below 1e-15."""
BLOCK_NUMBERS = 131_072
"""Numbers added at a time: their float64 copy stays in cache."""
MAX_THREADS = 4
"""At most; torch.get_num_threads() below that. Each looks through the rows of all."""
EARLIEST = np.iinfo(np.int64).min


class DecayedSums:
    """Decayed sums of all keys that were added; memory is bounded by these keys."""

    def __init__(self, dim: int, *, half_life: float | None) -> None:
        self.half_life = half_life
        self._rows = KeyRows()
        self._sum = np.zeros((0, dim))
        self._weight = np.zeros(0)
        self._reference = np.zeros(0, dtype=np.int64)
        self._last = np.zeros(0, dtype=np.int64)
        self._events = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, keys: Int64s, vectors: Sequence[Float32s], times: Int64s) -> None:
        """Add events in any order.

        Args:
            keys: (N,) the key of each event.
            vectors: Arrays (N_i, D) that are (N, D) one below the other; D may be 0 to count only.
            times: (N,) milliseconds, or ordinals.
        """
        num_known = len(self._rows)
        rows = self._rows.rows(keys)
        self._grow(len(self._rows))
        np.maximum.at(self._last, rows, times)
        fresh = slice(num_known, len(self._rows))
        self._reference[fresh] = self._last[fresh]
        self._catch_up(rows)
        weights = self._weights(rows, times)
        np.add.at(self._weight, rows, weights)
        np.add.at(self._events, rows, 1)
        if self._sum.shape[1]:
            self._add_vectors(rows, vectors, weights)

    def _weights(self, rows: Int64s, times: Int64s) -> Float64s:
        if self.half_life is None:
            return np.ones(len(rows))
        reference = self._reference[rows]
        ahead = times > reference
        apart = np.where(ahead, distance(times, reference), distance(reference, times))
        exponents = apart / self.half_life
        return np.exp2(np.negative(exponents, out=exponents, where=~ahead), out=exponents)

    def _catch_up(self, rows: Int64s) -> None:
        """Move references up that some events would be too far ahead of."""
        if self.half_life is None:
            return
        ahead = distance(self._last[rows], self._reference[rows])
        far = ahead > MAX_AHEAD * self.half_life
        if not far.any():
            return
        some = np.unique(rows[far])
        kept = decay(self._last[some], self._reference[some], half_life=self.half_life)
        self._sum[some] *= kept[:, None]
        self._weight[some] *= kept
        self._reference[some] = self._last[some]

    def _add_vectors(self, rows: Int64s, vectors: Sequence[Float32s], weights: Float64s) -> None:
        """Add weighted vectors in place; a thread has keys of its own, so all orders stay."""
        num_threads = min(torch.get_num_threads(), MAX_THREADS)
        if num_threads == 1 or len(rows) * self._sum.shape[1] < 2 * BLOCK_NUMBERS:
            _add_weighted(self._sum, rows, list(vectors), weights)
            return

        def add_some(thread: int) -> None:
            mine = np.flatnonzero(rows % num_threads == thread)
            ends = np.cumsum([len(part) for part in vectors])
            pieces = np.split(mine, np.searchsorted(mine, ends[:-1]))
            starts = ends - [len(part) for part in vectors]
            chosen = zip(vectors, pieces, starts, strict=True)
            parts = [(part, piece - start) for part, piece, start in chosen]
            _add_weighted(self._sum, rows[mine], parts, weights[mine])

        with ThreadPoolExecutor(num_threads) as pool:
            for done in [pool.submit(add_some, thread) for thread in range(num_threads)]:
                done.result()

    def _grow(self, num_keys: int) -> None:
        """Make room; what is reserved ahead is untouched zeros, which take no memory."""
        if num_keys <= len(self._weight):
            return
        room = max(num_keys, 2 * len(self._weight))
        self._sum = _longer(self._sum, room, fill=0)
        self._weight = _longer(self._weight, room, fill=0)
        self._reference = _longer(self._reference, room, fill=0)
        self._last = _longer(self._last, room, fill=EARLIEST)
        self._events = _longer(self._events, room, fill=0)

    def state(self) -> State:
        """Return the state of all keys so far, a copy.

        Raises:
            UserError: A sum holds NaN or infinity. Ranks may fail alone: call it inside
                ``ranks.together()``.
        """
        num_keys = len(self._rows)
        if num_keys == 0:
            return empty_state(self._sum.shape[1])
        keys = self._rows.keys
        rows = np.argsort(keys)
        last, weight = self._last[rows], self._weight[rows]
        kept = decay(last, self._reference[rows], half_life=self.half_life)
        state = State(
            keys=keys[rows],
            sum=self._decayed(rows, kept),
            # Two roundings may leave the newest event, which weighs 1, an ulp below.
            weight=np.maximum(kept * weight, 1.0),
            time=last,
            events=self._events[rows],
        )
        _refuse_not_finite(state)
        return state

    def _decayed(self, rows: Int64s, kept: Float64s) -> Float64s:
        total = np.empty((len(rows), self._sum.shape[1]))
        step = max(1, BLOCK_NUMBERS // max(1, self._sum.shape[1]))

        def fill(low: int) -> None:
            some = slice(low, low + step)
            np.multiply(self._sum[rows[some]], kept[some, None], out=total[some])

        with ThreadPoolExecutor(min(torch.get_num_threads(), MAX_THREADS)) as pool:
            for _ in pool.map(fill, range(0, len(rows), step)):
                pass
        return total


def _longer(values: npt.NDArray[Any], length: int, *, fill: int) -> npt.NDArray[Any]:
    shape = (length, *values.shape[1:])
    longer = np.zeros(shape, values.dtype) if fill == 0 else np.full(shape, fill, values.dtype)
    longer[: len(values)] = values
    return longer


Part = Float32s | tuple[Float32s, Int64s]
"""Vectors (N, D), or (M, D) and which N of them."""


def _add_weighted(total: Float64s, rows: Int64s, parts: Sequence[Part], weights: Float64s) -> None:
    """Add weights (N,) times vectors (N, D) to rows (N,) of ``total`` (K, D), one after the other.

    A sparse matrix with one weight a column times the vectors, added in place: half the time of
    sorting by key, and a fifth of index_add_ or scatter_add_.
    """
    sums, done = torch.from_numpy(total), 0
    for block in _blocks(parts, dim=total.shape[1]):
        some = slice(done, done + len(block))
        places = np.stack([rows[some], np.arange(len(block))])
        one_a_column = torch.sparse_coo_tensor(
            torch.from_numpy(places),
            torch.from_numpy(weights[some]),
            (len(total), len(block)),
            check_invariants=False,
        )
        sums.addmm_(one_a_column, torch.from_numpy(block))
        done += len(block)


def _blocks(parts: Sequence[Part], *, dim: int) -> Iterator[Float64s]:
    """Yield the vectors as float64 blocks that fit the cache; one is valid until the next.

    A block holds rows of several parts where these are short.
    """
    num_rows = max(1, BLOCK_NUMBERS // dim)
    room, filled = np.empty((num_rows, dim)), 0
    for part in parts:
        vectors, chosen = part if isinstance(part, tuple) else (part, None)
        length, taken = len(vectors if chosen is None else chosen), 0
        while taken < length:
            count = min(num_rows - filled, length - taken)
            some = slice(taken, taken + count)
            room[filled : filled + count] = vectors[some if chosen is None else chosen[some]]
            filled, taken = filled + count, taken + count
            if filled == num_rows:
                yield room
                filled = 0
    if filled:
        yield room[:filled]


def _refuse_not_finite(state: State) -> None:
    with np.errstate(invalid="ignore"):  # inf - inf, which is what is looked for
        bad = ~np.isfinite(state.sum @ np.ones(state.dim))
    if bad.any():
        raise UserError(
            f"the vectors of key {state.keys[bad][0]} hold NaN or infinity; the upstream model has "
            "diverged, dump from an earlier checkpoint"
        )


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
    sums = DecayedSums(vectors.shape[1], half_life=half_life)
    sums.add(keys, [vectors], times)
    return sums.state()
