"""Which ids have a row of a table, as a set-associative cache of a run of its buckets.

Everything here is a function of the ids and the step: no process, no order of arrival. An id has
one bucket; a bucket has ``ways`` rows for ids, and as many times ``ghosts_per_row`` ghosts, which
count ids that have no row. All ids of a step are worked through at once.

Dimension key: N distinct ids of a step, sorted; G groups, the buckets that some of them fall into;
W ways.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lfm4ads.shard.idspace import Geometry, IdsConfig, Int64s

NO_ID = -1
ONE = 1 << 8
"""One sighting; counts have eight bits behind the point, for halving."""
BITS = 31
"""A mark is ``count << 31 | step`` of an id's last sighting, 0 where there is no id."""
MOST = (1 << BITS) - 1
"""Counts stop at 8.4 million sightings; steps begin with 1 and end at 2.1 billion."""
_TAKEN = np.iinfo(np.int64).max
_BLOCK = 1 << 12
"""Entries worked through at once, so that what is compared stays in the processor's cache: four
times as fast as whole steps."""


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """What a step did; slots count from the first row of the run of buckets."""

    slots: Int64s
    """(N,) the row of each id, -1 for an id that has none."""
    known: npt.NDArray[np.bool_]
    """(N,) whether it had the row before the step."""
    evicted: Int64s
    """Slots that changed hands."""


class Shelf:
    """Ids with a mark each, ``ways`` a bucket."""

    def __init__(self, buckets: int, *, ways: int) -> None:
        self.ways = ways
        self.ids = np.full(buckets * ways, NO_ID, dtype=np.int64)
        self.marks = np.zeros(buckets * ways, dtype=np.int64)

    def find(self, ids: Int64s, *, buckets: Int64s) -> Int64s:
        """Return the slots (N,) of ids, -1 where there is none."""
        slots = np.full(len(ids), -1, dtype=np.int64)
        if not self.ways:
            return slots
        ids_BW = self.ids.reshape(-1, self.ways)
        for start in range(0, len(ids), _BLOCK):
            some = slice(start, start + _BLOCK)
            same_NW = ids_BW[buckets[some]] == ids[some, None]
            hits = np.flatnonzero(same_NW.reshape(-1))
            which = hits // self.ways
            slots[start + which] = buckets[some][which] * self.ways + hits % self.ways
        return slots

    def put(self, slots: Int64s, entries: "Entries") -> None:
        """Write entries into slots."""
        self.ids[slots], self.marks[slots] = entries.ids, entries.marks

    def clear(self, slots: Int64s) -> None:
        """Empty slots."""
        self.ids[slots], self.marks[slots] = NO_ID, 0

    def halve(self) -> None:
        """Halve every count."""
        self.marks[:] = ((self.marks >> (BITS + 1)) << BITS) | (self.marks & MOST)


@dataclass(frozen=True)
class Entries:
    """Ids (N,) with their marks (N,)."""

    ids: Int64s
    marks: Int64s

    def take(self, which: npt.NDArray[np.bool_] | Int64s) -> "Entries":
        """Return some of them."""
        return Entries(self.ids[which], self.marks[which])


class IdCache:
    """The buckets ``first`` to ``last`` of a table, and the ids that have their rows."""

    def __init__(self, geometry: Geometry, *, config: IdsConfig, first: int, last: int) -> None:
        counted = config.policy == "lfu" or config.admit_after > 1
        self.geometry, self.first, self.last = geometry, first, last
        self.rows = Shelf(last - first, ways=config.ways)
        self.ghosts = Shelf(last - first, ways=config.ways * config.ghosts_per_row * counted)
        self._config = config

    def find(self, ids: Int64s) -> Int64s:
        """Return the slots (N,) of ids of these buckets, -1 where there is none."""
        return self.rows.find(ids, buckets=self._bucket(ids))

    def admit(self, ids: Int64s, *, times: Int64s, step: int) -> Admitted:
        """Let the distinct ids (N,) of a step, sorted, be seen so many times (N,).

        Steps count from 1; none may be left out, even one without ids.
        """
        if self._config.half_life_steps and step % self._config.half_life_steps == 0:
            self.rows.halve()
            self.ghosts.halve()
        slots = self.find(ids)
        known = slots >= 0
        self.rows.marks[slots[known]] = _seen(
            self.rows.marks[slots[known]], times=times[known], step=step
        )
        rest = np.flatnonzero(~known)
        slots[rest], evicted = self._admit_unknown(ids[rest], times=times[rest], step=step)
        return Admitted(slots=slots, known=known, evicted=evicted)

    def _bucket(self, ids: Int64s) -> Int64s:
        return self.geometry.bucket(ids) - self.first

    def _admit_unknown(self, ids: Int64s, *, times: Int64s, step: int) -> tuple[Int64s, Int64s]:
        """Return the slots that ids without a row got, or -1, and those that changed hands."""
        ghosts = self.ghosts.find(ids, buckets=self._bucket(ids))
        counted = ghosts >= 0
        before = np.zeros(len(ids), dtype=np.int64)
        before[counted] = self.ghosts.marks[ghosts[counted]]
        asking = Entries(ids, _seen(before, times=times, step=step))
        ready = np.flatnonzero(asking.marks >> BITS >= self._config.admit_after * ONE)
        slots = np.full(len(ids), -1, dtype=np.int64)
        idle, lfu = self._config.min_idle_steps, self._config.policy == "lfu"
        slots[ready] = self._claim(self.rows, asking.take(ready), idle=idle, step=step, contest=lfu)
        won = slots >= 0
        taken = slots[won]
        evicted = taken[self.rows.ids[taken] != NO_ID]
        lost = Entries(self.rows.ids[evicted], self.rows.marks[evicted])
        self.rows.put(taken, asking.take(won))
        if self.ghosts.ways:
            self.ghosts.clear(ghosts[won & counted])
            stay = ~won & counted
            self.ghosts.marks[ghosts[stay]] = asking.marks[stay]
            self._haunt(asking.take(~won & ~counted), lost, step=step)
        return slots, evicted

    def _haunt(self, new: Entries, lost: Entries, *, step: int) -> None:
        """Count from now on ids that got no row, and those that lost theirs."""
        both = Entries(np.concatenate([new.ids, lost.ids]), np.concatenate([new.marks, lost.marks]))
        both = both.take(np.argsort(both.ids))
        slots = self._claim(self.ghosts, both, idle=1, step=step, contest=False)
        some = slots >= 0
        self.ghosts.put(slots[some], both.take(some))

    def _claim(
        self, shelf: Shelf, entries: Entries, *, idle: int, step: int, contest: bool
    ) -> Int64s:
        """Return slots for entries sorted by id, -1 for one that gets none.

        In a bucket the entries worth most choose first, of equals the smallest id; each takes the
        slot worth least, an empty one before all. In a ``contest`` not one worth more than itself.
        """
        buckets = self._bucket(entries.ids)
        slots = np.full(len(buckets), -1, dtype=np.int64)
        starts = np.flatnonzero(np.r_[True, buckets[1:] != buckets[:-1]])[: len(buckets)]
        for block in range(0, len(starts), _BLOCK):
            groups = starts[block : block + _BLOCK + 1]
            stop = groups[-1] if len(groups) > _BLOCK else len(buckets)
            some = slice(groups[0], stop)
            worth = self._worth(entries.marks[some])
            slots[some] = _choose(
                self._slots_worth(shelf, buckets[groups[:_BLOCK]], idle=idle, step=step),
                groups=groups[:_BLOCK] - groups[0],
                worth=worth,
                most=worth if contest else np.full(len(worth), _TAKEN - 1),
            )
        won = slots >= 0
        slots[won] += buckets[won] * shelf.ways
        return slots

    def _worth(self, marks: Int64s) -> Int64s:
        """Return one number to compare marks by: (count, step) or (step, count)."""
        if self._config.policy == "lfu":
            return marks
        return ((marks & MOST) << BITS) | (marks >> BITS)

    def _slots_worth(self, shelf: Shelf, buckets: Int64s, *, idle: int, step: int) -> Int64s:
        """Return what each slot (G, W) is worth: an empty one 0, one not to be had the most."""
        marks_GW = shelf.marks.reshape(-1, shelf.ways)[buckets]
        recent_GW = (marks_GW & MOST) > max(step - idle, 0)
        worth_GW = self._worth(marks_GW)
        worth_GW[recent_GW] = _TAKEN
        return worth_GW


def _seen(marks: Int64s, *, times: Int64s, step: int) -> Int64s:
    """Return the marks (N,) of ids after so many sightings (N,) in a step."""
    counts = (marks >> BITS) + np.minimum(times, MOST // ONE) * ONE
    return (np.minimum(counts, MOST) << BITS) | step


def _choose(worth_GW: Int64s, *, groups: Int64s, worth: Int64s, most: Int64s) -> Int64s:
    """Return the way that each entry (N,) takes of its group, -1 for none.

    ``groups`` (G,) are the first entries of each group; ``worth_GW`` is written over.
    """
    sizes = np.diff(np.r_[groups, len(worth)])
    group = np.repeat(np.arange(len(groups)), sizes)
    ways = np.full(len(worth), -1, dtype=np.int64)
    turns = [np.arange(len(worth))]
    if len(groups) < len(worth):
        ranked = np.lexsort((-worth, group))
        turn = np.arange(len(worth)) - np.repeat(groups, sizes)
        by_turn = ranked[np.argsort(turn, kind="stable")]
        turns = np.split(by_turn, np.cumsum(np.bincount(turn))[:-1])[: worth_GW.shape[1]]
    for which in turns:
        of = group[which]
        own_GW = worth_GW if len(of) == len(worth_GW) else worth_GW[of]
        least = own_GW.argmin(axis=1)
        won = own_GW[np.arange(len(of)), least] <= most[which]
        ways[which[won]] = least[won]
        worth_GW[of[won], least[won]] = _TAKEN
    return ways
