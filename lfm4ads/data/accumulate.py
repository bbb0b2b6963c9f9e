"""Batches of one day folded, as they come, into the partial states of one side."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from lfm4ads.core.errors import UserError
from lfm4ads.data.decay import Float32s, Int64s, State, empty_state, merge
from lfm4ads.data.latest import Latest, empty_latest, fold_latest, merge_latest
from lfm4ads.data.manifest import RepSpec
from lfm4ads.data.side import SideStates
from lfm4ads.data.sums import DecayedSums

FOLD_ROWS = 131_072
"""Rows that wait before they are folded, so that small batches cost no more per row."""
FOLD_BYTES = 64 << 20
"""Of vectors that wait before they are folded, where rows are wide."""


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """N events of one representation."""

    keys: Int64s
    vectors: Float32s
    times: Int64s
    ties: Int64s


class SideAccumulator:
    """The states of one rank and side so far; memory is bounded by the keys it saw.

    ``count`` and ``add`` keep the arrays they are given until these are folded, so callers must not
    write to them afterwards. They never raise for bad vectors: the first such error waits for
    ``finish``, where ranks can agree on it.
    """

    def __init__(self, specs: Sequence[RepSpec], *, fold_rows: int = FOLD_ROWS) -> None:
        self._fold_rows = fold_rows
        self._counts = _SumsPile(0, half_life=None)
        self._decayed = {
            spec.name: _SumsPile(spec.dim, half_life=spec.half_life)
            for spec in specs
            if spec.kind == "decayed"
        }
        self._latest = {spec.name: _LatestPile(spec.dim) for spec in specs if spec.kind == "latest"}
        self._error: UserError | None = None

    def count(self, keys: Int64s, *, times: Int64s) -> None:
        """Count events of keys (N,) at times (N,), for the side's ``events`` and ``last_time``."""
        nothing = np.zeros((len(keys), 0), dtype=np.float32)
        self._push(self._counts, _Rows(keys=keys, vectors=nothing, times=times, ties=times))

    def add(
        self, name: str, *, keys: Int64s, vectors: Float32s, times: Int64s, row_ids: Int64s
    ) -> None:
        """Add keys (N,), vectors (N, D), times (N,) and row ids (N,) to a representation.

        Times are milliseconds, or ordinals where its clock counts events.
        """
        pile = self._decayed[name] if name in self._decayed else self._latest[name]
        self._push(pile, _Rows(keys=keys, vectors=vectors, times=times, ties=row_ids))

    def finish(self) -> SideStates:
        """Return all states so far, to be routed; more rows may follow.

        Raises:
            UserError: A vector held NaN or infinity. Call it inside ``ranks.together()``.
        """
        for pile in (self._counts, *self._decayed.values(), *self._latest.values()):
            self._fold(pile)
        if self._error is not None:
            raise self._error
        return SideStates(
            counts=self._counts.total(),
            decayed={name: pile.total() for name, pile in self._decayed.items()},
            latest={name: pile.total() for name, pile in self._latest.items()},
        )

    def _push(self, pile: "_SumsPile | _LatestPile", rows: _Rows) -> None:
        pile.waiting.append(rows)
        pile.num_waiting += len(rows.keys)
        width = max(1, rows.vectors.shape[1] * rows.vectors.itemsize)
        enough = min(self._fold_rows, FOLD_BYTES // width)
        if pile.num_waiting >= max(enough, pile.patience):
            self._fold(pile)

    def _fold(self, pile: "_SumsPile | _LatestPile") -> None:
        rows, pile.waiting, pile.num_waiting = pile.waiting, [], 0
        if not rows:
            return
        try:
            pile.fold(rows)
        except UserError as error:
            self._error = self._error or error


class _SumsPile:
    """Decayed sums that rows are added to, beside the state that was last asked for."""

    patience = 0
    """Rows that had better wait before they are folded."""

    def __init__(self, dim: int, *, half_life: float | None) -> None:
        self.waiting: list[_Rows] = []
        self.num_waiting = 0
        self._dim = dim
        self._half_life = half_life
        self._sums = DecayedSums(dim, half_life=half_life)
        self._done = empty_state(dim)

    def fold(self, rows: Sequence[_Rows]) -> None:
        self._sums.add(
            np.concatenate([part.keys for part in rows]),
            [part.vectors for part in rows],
            np.concatenate([part.times for part in rows]),
        )

    def total(self) -> State:
        """Return the state of all rows; the sums begin anew, so that it is held once."""
        if len(self._sums):
            state = self._sums.state()
            self._sums = DecayedSums(self._dim, half_life=self._half_life)
            self._done = merge(self._done, state, half_life=self._half_life)
        return self._done


class _LatestPile:
    """States of shrinking size; equals merge first, so a row takes part in few merges."""

    def __init__(self, dim: int) -> None:
        self.waiting: list[_Rows] = []
        self.num_waiting = 0
        self.states = [empty_latest(dim)]

    @property
    def patience(self) -> int:
        # As many rows as keys, so memory stays bounded by keys, and a merge with all keys so far
        # follows a fold of more rows than that.
        return 2 * len(self.states[0])

    def fold(self, rows: Sequence[_Rows]) -> None:
        state = fold_latest(
            np.concatenate([part.keys for part in rows]),
            np.concatenate([part.vectors for part in rows]),
            np.concatenate([part.times for part in rows]),
            ties=np.concatenate([part.ties for part in rows]),
        )
        self.states.append(state)
        while len(self.states) > 1 and len(self.states[-2]) <= 2 * len(self.states[-1]):
            last = self.states.pop()
            self.states[-1] = merge_latest(self.states[-1], last)

    def total(self) -> Latest:
        self.states = [reduce(merge_latest, self.states)]
        return self.states[0]
