"""Rows of keys in arrays that grow: a hash table made of arrays, so that a lookup is a few passes.

Sorting what comes and searching it among sorted keys takes three times as long, and inserting into
sorted keys moves all of them.
"""

import numpy as np
import numpy.typing as npt

from lfm4ads.data.hashing import mix64

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]

_MIN_SLOTS = 1_024


class KeyRows:
    """Gives each key the next row when it is first seen; at most 2^31 - 1 keys.

    Open addressing with linear probing, at most half full. A slot holds a row + 1, or 0.
    """

    def __init__(self) -> None:
        self._known = np.zeros(_MIN_SLOTS // 2 + 1, dtype=np.int64)
        self._slots = np.zeros(_MIN_SLOTS, dtype=np.int32)
        self._num_keys = 0

    def __len__(self) -> int:
        return self._num_keys

    @property
    def keys(self) -> Int64s:
        """(K,) in the order of their rows; a view that the next ``rows`` may outdate."""
        return self._known[1 : self._num_keys + 1]

    def rows(self, keys: Int64s) -> Int64s:
        """Return the rows (N,) of keys (N,), new ones for keys that were not seen before."""
        self._reserve(self._num_keys + len(keys))
        places = self._places(keys)
        found = self._slots[places]
        pending = np.flatnonzero((found == 0) | (self._known[found] != keys))
        while len(pending):
            at, wanted = places[pending], keys[pending]
            self._claim(at, wanted)
            held = self._slots[at]
            found[pending] = held
            pending = pending[self._known[held] != wanted]
            places[pending] = (places[pending] + 1) & (len(self._slots) - 1)
        return found.astype(np.int64) - 1

    def _claim(self, places: Int64s, keys: Int64s) -> None:
        """Put keys into those of their places that are empty; one of several gets it."""
        free = np.flatnonzero(self._slots[places] == 0)
        if not len(free):
            return
        marks = np.arange(1, len(free) + 1, dtype=np.int32)
        self._slots[places[free]] = -marks
        won = free[self._slots[places[free]] == -marks]
        rows = np.arange(self._num_keys + 1, self._num_keys + 1 + len(won))
        self._known[rows] = keys[won]
        self._slots[places[won]] = rows
        self._num_keys += len(won)

    def _places(self, keys: Int64s) -> Int64s:
        """Return the first slot of each key, from the high bits: a rank's keys share low ones."""
        bits = len(self._slots).bit_length() - 1
        return (mix64(keys) >> np.uint64(64 - bits)).view(np.int64)

    def _reserve(self, num_keys: int) -> None:
        if num_keys >= len(self._known):
            known = np.zeros(max(num_keys + 1, 2 * len(self._known)), dtype=np.int64)
            known[: self._num_keys + 1] = self._known[: self._num_keys + 1]
            self._known = known
        if 2 * num_keys <= len(self._slots):
            return
        self._slots = np.zeros(1 << (2 * num_keys - 1).bit_length(), dtype=np.int32)
        rows = np.arange(1, self._num_keys + 1, dtype=np.int32)
        places = self._places(self.keys)
        while len(rows):
            free = self._slots[places] == 0
            self._slots[places[free]] = rows[free]
            lost = self._slots[places] != rows
            rows, places = rows[lost], (places[lost] + 1) & (len(self._slots) - 1)
