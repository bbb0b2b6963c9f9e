"""What the days so far say of every user and every video."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.kuairand.entities import Entities

Array = npt.NDArray[Any]


class Recent:
    """The last few events of every user, oldest first.

    Memory: 20 bytes an event, at most ``length`` events a user.
    """

    def __init__(self, num_users: int, *, length: int) -> None:
        self._length = length
        self._num_users = num_users
        self._users: Array = np.empty(0, dtype=np.int32)
        self.items: Array = np.empty(0, dtype=np.int64)
        self.times_ms: Array = np.empty(0, dtype=np.int64)
        self.offsets: Array = np.zeros(num_users + 1, dtype=np.int32)
        """User u has events ``offsets[u]:offsets[u + 1]``."""

    def add(self, users: Array, *, items: Array, times_ms: Array) -> None:
        """Append events given in time order; (N,) indices of users and items, (N,) times."""
        every = np.concatenate([self._users, users.astype(np.int32)])
        order = np.argsort(every, kind="stable")
        counts = np.bincount(every, minlength=self._num_users)
        from_last = np.repeat(np.cumsum(counts), counts) - 1 - np.arange(len(every))
        kept = order[from_last < self._length]
        self._users = every[kept]
        self.items = np.concatenate([self.items, items])[kept]
        self.times_ms = np.concatenate([self.times_ms, times_ms])[kept]
        self.offsets[1:] = np.cumsum(np.minimum(counts, self._length))

    def lists(self, values: Array) -> pa.ListArray:
        """Return for each user the list of ``values``, which has one value an event."""
        return pa.ListArray.from_arrays(pa.array(self.offsets), pa.array(values, type=pa.int64()))


class Tally:
    """Exposures and long views of every key, and the smoothed rate they give."""

    def __init__(self, size: int) -> None:
        self.exposures: Array = np.zeros(size, dtype=np.int64)
        self.long_views: Array = np.zeros(size, dtype=np.int64)

    def add(self, indices: Array, *, long_views: Array) -> None:
        """Count events (N,) of keys (N,); ``long_views`` is 0 or 1."""
        size = len(self.exposures)
        self.exposures += np.bincount(indices, minlength=size)
        self.long_views += np.bincount(indices[long_views == 1], minlength=size)

    def columns(self, prefix: str, *, prior_exposures: float) -> dict[str, pa.Array]:
        """Return the count and ``(long views + k * rate of all) / (exposures + k)``.

        The rate is null before the first event of all.
        """
        total = int(self.exposures.sum())
        overall = self.long_views.sum() / max(total, 1)
        rates = (self.long_views + prior_exposures * overall) / (self.exposures + prior_exposures)
        none_yet = np.full(len(rates), total == 0)
        return {
            f"{prefix}_exposures": pa.array(self.exposures),
            f"{prefix}_long_view_rate": pa.array(rates.astype(np.float32), mask=none_yet),
        }


class Past:
    """All that later rows may know; it grows by whole days, so every row of a day sees the same.

    That is what a server with a nightly snapshot has, and it makes a row's features independent of
    every outcome of its own day.
    """

    def __init__(
        self, *, num_users: int, num_items: int, length: int, prior_exposures: float
    ) -> None:
        self._prior_exposures = prior_exposures
        self._exposed = Recent(num_users, length=length)
        self._long_viewed = Recent(num_users, length=length)
        self._users = Tally(num_users)
        self._items = Tally(num_items)

    def add(self, users: Array, *, items: Array, times_ms: Array, long_views: Array) -> None:
        """Append a day's exposures in time order, (N,) each; users and items are indices."""
        long = long_views == 1
        self._users.add(users, long_views=long_views)
        self._items.add(items, long_views=long_views)
        self._exposed.add(users, items=items, times_ms=times_ms)
        self._long_viewed.add(users[long], items=items[long], times_ms=times_ms[long])

    def user_columns(self, items: Entities) -> dict[str, pa.Array]:
        """Return what is known of each user."""
        long, exposed = self._long_viewed, self._exposed
        return {
            **self._users.columns("user", prior_exposures=self._prior_exposures),
            "recent_long_views": long.lists(items.keys[long.items]),
            "recent_long_view_times": long.lists(long.times_ms),
            "recent_authors": _gather_ids(items.table["author_id"], recent=long),
            "recent_tags": _gather_lists(items.table["tag"], recent=long),
            "recent_exposed": exposed.lists(items.keys[exposed.items]),
            "recent_exposed_times": exposed.lists(exposed.times_ms),
        }

    def item_columns(self) -> dict[str, pa.Array]:
        """Return what is known of each video."""
        return self._items.columns("item", prior_exposures=self._prior_exposures)


def _gather_ids(column: pa.ChunkedArray, *, recent: Recent) -> pa.ListArray:
    """Return each user's list of a column of the items; items without a value are left out."""
    taken = column.combine_chunks().take(pa.array(recent.items))
    present = taken.is_valid().to_numpy(zero_copy_only=False)
    before = np.concatenate([[0], np.cumsum(present)])
    return _lists(before[recent.offsets], values=taken.drop_null())


def _gather_lists(column: pa.ChunkedArray, *, recent: Recent) -> pa.ListArray:
    """Return each user's concatenated lists of a list column of the items."""
    taken = column.combine_chunks().take(pa.array(recent.items))
    counts = taken.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    before = np.concatenate([[0], np.cumsum(counts)])
    return _lists(before[recent.offsets], values=taken.flatten())


def _lists(offsets: Array, *, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), values)
