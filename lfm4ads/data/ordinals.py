"""Ordinals of events among those of their key, as a clock that is known before the vectors are.

S <- g S + c per event in time order weighs event k of n by g^(n - k): the state of
``data/decay.py`` with k for the time. So ranks send (key, time, row id, slot), never vectors, to
the owners of the keys; these sort, count on from yesterday's snapshot, and send the ordinals back.
After that, events may be folded in any order, on any rank, as with wall-clock time.

A day is the grain: an event that arrives in a later day's file comes after all of the days before,
whatever its time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lfm4ads.core.ranks import Array, Ranks
from lfm4ads.data.decay import Int64s, union
from lfm4ads.data.keyrows import KeyRows
from lfm4ads.data.manifest import RepSide
from lfm4ads.data.owner import exchange_rows, owner
from lfm4ads.data.slots import SlotRows


@dataclass(kw_only=True)
class Tally:
    """Events of one side's keys per group and event so far, on the rank that owns the keys."""

    num_groups: int
    num_events: int
    before: Callable[[Int64s], Int64s]
    """Counts (K, G * E) of keys (K,) in the snapshot that is continued."""
    keys: Int64s
    """(K,) sorted, that had events since."""
    counts: Int64s
    """(K, G * E) events since."""

    def so_far(self, keys: Int64s) -> Int64s:
        """Return all events (K, G * E) of sorted keys (K,)."""
        counts = self.before(keys)
        rows = np.searchsorted(self.keys, keys)
        inside = np.minimum(rows, max(len(self.keys) - 1, 0))
        found = self.keys[inside] == keys if len(self.keys) else np.zeros(len(keys), np.bool_)
        counts[found] += self.counts[inside[found]]
        return counts

    def add(self, keys: Int64s, counts: Int64s) -> None:
        """Count events (K, G * E) of sorted, unique keys (K,)."""
        together = union(self.keys, keys)
        total = np.zeros((len(together), self.counts.shape[1]), dtype=np.int64)
        total[np.searchsorted(together, self.keys)] += self.counts
        total[np.searchsorted(together, keys)] += counts
        self.keys, self.counts = together, total


def empty_tally(*, num_groups: int, num_events: int, before: Callable[[Int64s], Int64s]) -> Tally:
    """Return the tally of no event since a snapshot."""
    return Tally(
        num_groups=num_groups,
        num_events=num_events,
        before=before,
        keys=np.zeros(0, dtype=np.int64),
        counts=np.zeros((0, num_groups * num_events), dtype=np.int64),
    )


def ordinals(ranks: Ranks, rows: SlotRows, *, side: RepSide, tally: Tally) -> Int64s:
    """Return the ordinals (N, E), from 1, of a day's rows in their group; 0 where unmarked.

    Collective: ``rows`` are this rank's, the ordinals are among all ranks'. The day's events are
    added to the owners' tallies.
    """
    sent = np.flatnonzero(rows.marks.any(axis=1))
    some = slice(None) if len(sent) == len(rows) else sent
    keys = rows.keys[side][some]
    columns: dict[str, Array] = {
        "keys": keys,
        "time": rows.time[some],
        "row_id": rows.row_id[some],
        "group": rows.group[some].astype(np.int16),
        "marks": np.packbits(rows.marks[some], axis=1),
    }
    received = exchange_rows(ranks, columns)
    ends = np.cumsum([len(one["keys"]) for one in received])[:-1]
    joined = {name: np.concatenate([one[name] for one in received]) for name in columns}
    found = _count(joined, tally)
    result = np.zeros((len(rows), tally.num_events), dtype=np.int64)
    owners = owner(keys, world=ranks.world)
    for event in range(tally.num_events):
        replies = ranks.exchange(np.split(found[:, event], ends))
        for rank, reply in enumerate(replies):
            result[sent[owners == rank], event] = reply
    return result


def _count(columns: dict[str, Array], tally: Tally) -> Int64s:
    """Return ordinals (N, E) of the rows of this owner's keys, and count them."""
    keys, group = columns["keys"], columns["group"]
    marks = np.unpackbits(columns["marks"], axis=1, count=tally.num_events)
    result = np.zeros(marks.shape, dtype=np.int64)
    if len(keys) == 0:
        return result
    order = _order(columns)
    keys, group, marks = keys[order], group[order], marks.take(order, axis=0)
    first = np.r_[True, (keys[1:] != keys[:-1]) | (group[1:] != group[:-1])]
    starts, segment = np.flatnonzero(first), np.cumsum(first) - 1
    running = np.cumsum(marks, axis=0, dtype=np.int64)
    earlier = running[starts] - marks[starts]
    totals = np.diff(earlier, axis=0, append=running[-1:])
    known, rows = np.unique(keys[starts], return_inverse=True)
    before = tally.so_far(known).reshape(len(known), tally.num_groups, tally.num_events)
    places = group[starts].astype(np.int64)
    offset = before[rows, places] - earlier
    running += offset.take(segment, axis=0)
    running *= marks
    result[order] = running
    counts = np.zeros_like(before)
    np.add.at(counts, (rows, places), totals)
    tally.add(known, counts.reshape(len(known), -1))
    return result


def _order(columns: dict[str, Array]) -> Int64s:
    """Return the rows by key, group, time and row id; days mostly lie in order of time already."""
    time, row_id, group = (columns[name] for name in ("time", "row_id", "group"))
    ahead = (time[1:] > time[:-1]) | ((time[1:] == time[:-1]) & (row_id[1:] >= row_id[:-1]))
    order = np.arange(len(time)) if ahead.all() else np.lexsort((row_id, time))
    if (group != group[0]).any():
        order = order[np.argsort(group[order], kind="stable")]
    return order[_by_key(columns["keys"][order])]


def _by_key(keys: Int64s) -> Int64s:
    """Return the rows, those of a key side by side in their order; keys may come in any.

    numpy's stable sort counts digits where numbers have 16 bits, and merges, ten times as long,
    where they have more.
    """
    low = int(keys.min())
    near = int(keys.max()) - low < 1 << 32
    numbers = keys - low if near else KeyRows().rows(keys)
    order = np.argsort((numbers & 0xFFFF).astype(np.uint16), kind="stable")
    high = (numbers >> 16).astype(np.uint16)
    return order[np.argsort(high[order], kind="stable")]
