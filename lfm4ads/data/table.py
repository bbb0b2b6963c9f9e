"""Representations of a day's active keys in memory, for lookups per batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lfm4ads.data.decay import Float32s, Int64s

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookup:
    """What N asked keys have; zeros and absent where a key has none."""

    values: dict[str, Float32s]
    """(N, D) each, after the manifest's read."""
    present: dict[str, Mask]
    """(N,) each; whether the key has that representation."""
    events: Int64s
    """(N,) events of the key so far."""
    last_time: Int64s
    """(N,) its latest event in milliseconds; 0 without one."""

    def age_ms(self, now: Int64s | int) -> Int64s:
        """Return milliseconds (N,) from a key's latest event to ``now`` (N,); 0 without one."""
        return np.where(self.events > 0, now - self.last_time, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class RepsTable:
    """K keys that were asked of a snapshot; arrays have one more row, of zeros, for all other keys.

    Read-only, so threads may share it. A key that was not asked for when the table was made is
    absent here even if the snapshot has it.
    """

    keys: Int64s
    """(K,) sorted, unique."""
    values: dict[str, Float32s]
    """(K + 1, D) each."""
    present: dict[str, Mask]
    """(K + 1,) each."""
    events: Int64s
    last_time: Int64s
    """(K + 1,) each."""

    @property
    def num_bytes(self) -> int:
        """Memory of the vectors."""
        return sum(matrix.nbytes for matrix in self.values.values())

    def only(self, names: Sequence[str]) -> "RepsTable":
        """Return the table of some representations, sharing its memory."""
        return replace(
            self,
            values={name: self.values[name] for name in names},
            present={name: self.present[name] for name in names},
        )

    def beside(self, other: "RepsTable") -> "RepsTable":
        """Return the representations of both tables, which are of the same keys and snapshot."""
        return replace(
            self, values=self.values | other.values, present=self.present | other.present
        )

    def lookup(self, keys: Int64s) -> Lookup:
        """Return what the table has for keys (N,), in any order, repeated or not."""
        rows = np.searchsorted(self.keys, keys)
        inside = np.minimum(rows, max(len(self.keys) - 1, 0))
        found = self.keys[inside] == keys if len(self.keys) else np.zeros(len(keys), dtype=np.bool_)
        rows = np.where(found, rows, len(self.keys))
        return Lookup(
            values={name: matrix[rows] for name, matrix in self.values.items()},
            present={name: mask[rows] for name, mask in self.present.items()},
            events=self.events[rows],
            last_time=self.last_time[rows],
        )
