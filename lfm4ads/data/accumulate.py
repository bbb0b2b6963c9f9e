"""Batches of one day folded, as they come, into the partial states of one side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Generic, TypeVar

import numpy as np

from lfm4ads.core.errors import UserError
from lfm4ads.data.decay import Float32s, Int64s, State, empty_state, fold_events, merge
from lfm4ads.data.latest import Latest, empty_latest, fold_latest, merge_latest
from lfm4ads.data.manifest import RepSpec
from lfm4ads.data.side import SideStates

FOLD_ROWS = 131_072
"""Rows that wait before they are folded; a fold sorts, so larger is faster per row."""
FOLD_BYTES = 64 << 20
"""Of vectors that wait before they are folded, where rows are wide."""

S = TypeVar("S", State, Latest)


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
        self._counts = _decayed_pile(0, half_life=None)
        self._decayed = {
            spec.name: _decayed_pile(spec.dim, half_life=spec.half_life)
            for spec in specs
            if spec.kind == "decayed"
        }
        self._latest = {
            spec.name: _Pile(fold=_fold_latest, merge=merge_latest, states=[empty_latest(spec.dim)])
            for spec in specs
            if spec.kind == "latest"
        }
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

    def _push(self, pile: "_Pile[State] | _Pile[Latest]", rows: _Rows) -> None:
        pile.waiting.append(rows)
        pile.num_waiting += len(rows.keys)
        width = max(1, rows.vectors.shape[1] * rows.vectors.itemsize)
        enough = min(self._fold_rows, FOLD_BYTES // width)
        # Two float32 rows a key weigh what its float64 sum does, so memory stays bounded by keys,
        # and a merge with all keys so far follows a fold of more rows than that.
        if pile.num_waiting >= max(enough, 2 * len(pile.states[0])):
            self._fold(pile)

    def _fold(self, pile: "_Pile[State] | _Pile[Latest]") -> None:
        try:
            pile.fold_waiting()
        except UserError as error:
            self._error = self._error or error


@dataclass(kw_only=True)
class _Pile(Generic[S]):
    """States of shrinking size; equals merge first, so a row takes part in few merges."""

    fold: Callable[[_Rows], S]
    merge: Callable[[S, S], S]
    states: list[S]
    waiting: list[_Rows] = field(default_factory=list)
    num_waiting: int = 0

    def fold_waiting(self) -> None:
        rows, self.waiting, self.num_waiting = self.waiting, [], 0
        if not rows:
            return
        joined = _joined(rows)
        del rows
        self.states.append(self.fold(joined))
        while len(self.states) > 1 and len(self.states[-2]) <= 2 * len(self.states[-1]):
            last = self.states.pop()
            self.states[-1] = self.merge(self.states[-1], last)

    def total(self) -> S:
        self.states = [reduce(self.merge, self.states)]
        return self.states[0]


def _joined(rows: Sequence[_Rows]) -> _Rows:
    return _Rows(
        keys=np.concatenate([part.keys for part in rows]),
        vectors=np.concatenate([part.vectors for part in rows]),
        times=np.concatenate([part.times for part in rows]),
        ties=np.concatenate([part.ties for part in rows]),
    )


def _decayed_pile(dim: int, *, half_life: float | None) -> _Pile[State]:
    return _Pile(
        fold=partial(_fold_decayed, half_life=half_life),
        merge=partial(merge, half_life=half_life),
        states=[empty_state(dim)],
    )


def _fold_decayed(rows: _Rows, *, half_life: float | None) -> State:
    return fold_events(rows.keys, rows.vectors, rows.times, half_life=half_life)


def _fold_latest(rows: _Rows) -> Latest:
    return fold_latest(rows.keys, rows.vectors, rows.times, ties=rows.ties)
