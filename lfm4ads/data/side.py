"""All that is known of the keys of one side: counts, decayed sums and latest vectors together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from lfm4ads.core.ranks import Ranks
from lfm4ads.data.decay import Int64s, State, empty_state, merge, route, union
from lfm4ads.data.latest import Latest, empty_latest, merge_latest, route_latest
from lfm4ads.data.manifest import RepSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class SideStates:
    """States by representation name; each has its own keys, so a key may lack any of them."""

    counts: State
    """Width 0: events and last time of every key of the side."""
    decayed: dict[str, State]
    latest: dict[str, Latest]

    @property
    def keys(self) -> Int64s:
        """(K,) sorted keys that any state has."""
        return reduce(union, [state.keys for state in self.parts()])

    def parts(self) -> list[State | Latest]:
        """Return every state, the counts first."""
        return [self.counts, *self.decayed.values(), *self.latest.values()]

    def between(self, low: int | None, high: int | None) -> "SideStates":
        """Return the rows with low < key <= high, as views; None is unbounded."""

        def cut(keys: Int64s) -> slice:
            start = 0 if low is None else int(np.searchsorted(keys, low, side="right"))
            stop = len(keys) if high is None else int(np.searchsorted(keys, high, side="right"))
            return slice(start, stop)

        return SideStates(
            counts=self.counts.take(cut(self.counts.keys)),
            decayed={name: state.take(cut(state.keys)) for name, state in self.decayed.items()},
            latest={name: state.take(cut(state.keys)) for name, state in self.latest.items()},
        )


def empty_side(specs: Sequence[RepSpec]) -> SideStates:
    """Return the states of no key for the representations of one side."""
    return SideStates(
        counts=empty_state(0),
        decayed={spec.name: empty_state(spec.dim) for spec in specs if spec.kind == "decayed"},
        latest={spec.name: empty_latest(spec.dim) for spec in specs if spec.kind == "latest"},
    )


def merge_sides(a: SideStates, b: SideStates, specs: Sequence[RepSpec]) -> SideStates:
    """Return the states of both's events; both have exactly the representations of ``specs``."""
    return _each(
        specs,
        counts=merge(a.counts, b.counts, half_life=None),
        decayed=lambda spec: merge(
            a.decayed[spec.name], b.decayed[spec.name], half_life=spec.half_life
        ),
        latest=lambda spec: merge_latest(a.latest[spec.name], b.latest[spec.name]),
    )


def route_side(ranks: Ranks, states: SideStates, specs: Sequence[RepSpec]) -> SideStates:
    """Send all partial states to the owners of their keys and merge them there. Collective."""
    return _each(
        specs,
        counts=route(ranks, states.counts, half_life=None),
        decayed=lambda spec: route(ranks, states.decayed[spec.name], half_life=spec.half_life),
        latest=lambda spec: route_latest(ranks, states.latest[spec.name]),
    )


def concat_sides(chunks: Sequence[SideStates], specs: Sequence[RepSpec]) -> SideStates:
    """Join states whose key ranges ascend without overlap."""
    chunks = [*chunks, empty_side(specs)]
    return _each(
        specs,
        counts=_concat_states([chunk.counts for chunk in chunks]),
        decayed=lambda spec: _concat_states([chunk.decayed[spec.name] for chunk in chunks]),
        latest=lambda spec: _concat_latest([chunk.latest[spec.name] for chunk in chunks]),
    )


def _each(
    specs: Sequence[RepSpec],
    *,
    counts: State,
    decayed: Callable[[RepSpec], State],
    latest: Callable[[RepSpec], Latest],
) -> SideStates:
    """Fill a side in the order of ``specs``, which is the same on all ranks."""
    return SideStates(
        counts=counts,
        decayed={spec.name: decayed(spec) for spec in specs if spec.kind == "decayed"},
        latest={spec.name: latest(spec) for spec in specs if spec.kind == "latest"},
    )


def _concat_states(states: Sequence[State]) -> State:
    return State(
        keys=np.concatenate([state.keys for state in states]),
        sum=np.concatenate([state.sum for state in states]),
        weight=np.concatenate([state.weight for state in states]),
        time=np.concatenate([state.time for state in states]),
        events=np.concatenate([state.events for state in states]),
    )


def _concat_latest(states: Sequence[Latest]) -> Latest:
    return Latest(
        keys=np.concatenate([state.keys for state in states]),
        vector=np.concatenate([state.vector for state in states]),
        time=np.concatenate([state.time for state in states]),
        tie=np.concatenate([state.tie for state in states]),
    )
