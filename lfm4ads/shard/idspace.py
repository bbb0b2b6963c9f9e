"""Settings of ``managed`` tables, and where in a table an id may live.

Dimension key: N ids.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class IdsConfig:
    """How ids of ``managed`` tables come to rows of their own and lose them."""

    ways: int = 32
    """Rows an id can live in: few are fast to search, many waste fewer rows."""
    policy: Literal["lfu", "lru"] = "lfu"
    """Who loses its row: the id seen least, recent steps counting more, or the one not seen for
    longest. With lfu a new id gets a row only in place of an id seen no more often than itself."""
    half_life_steps: int = 10_000
    """Counts are halved every so many steps; 0: never."""
    admit_after: int = 1
    """Sightings, less what was halved away, after which an id may get a row."""
    min_idle_steps: int = 1
    """A row is kept for at least so many steps after its id was seen."""
    overflow_ratio: float = 1 / 64
    """Share of the rows, one at least, that all ids without a row of their own share by hash."""
    ghosts_per_row: int = 1
    """Ids without a row whose sightings are counted, for each row; 0 with lru and admit_after=1."""

    def __post_init__(self) -> None:
        if self.ways < 1 or self.admit_after < 1 or self.min_idle_steps < 1:
            raise ValueError(
                "ids.ways, ids.admit_after and ids.min_idle_steps must be at least 1, got"
                f" {self.ways}, {self.admit_after} and {self.min_idle_steps}"
            )
        if self.half_life_steps < 0 or self.ghosts_per_row < 0:
            raise ValueError("ids.half_life_steps and ids.ghosts_per_row must not be negative")
        if not 0 <= self.overflow_ratio < 1:
            raise ValueError(f"ids.overflow_ratio must be in [0, 1), got {self.overflow_ratio}")
        if self.admit_after > 1 and not self.ghosts_per_row:
            raise ValueError(
                f"ids.admit_after is {self.admit_after}, which nothing counts with"
                " ids.ghosts_per_row=0; set it to 1 or more"
            )


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Buckets x ways rows with an id each, then the overflow rows."""

    rows: int
    ways: int
    buckets: int

    @property
    def first_overflow(self) -> int:
        """The first of the rows that ids share."""
        return self.buckets * self.ways

    def bucket(self, ids: Int64s) -> Int64s:
        """Return the buckets of ids in [0, 2^63): sorted ids have sorted buckets."""
        return ((ids >> 32) * self.buckets) >> 31

    def overflow_row(self, ids: Int64s) -> Int64s:
        """Return the shared rows of ids: their low bits."""
        shared = self.rows - self.first_overflow
        return self.first_overflow + (ids & 0xFFFFFFFF) % shared


def geometry_of(rows: int, *, ways: int, overflow_ratio: float) -> Geometry | None:
    """Return the geometry of a table, None if it is too small for one bucket."""
    owned = rows - max(1, int(rows * overflow_ratio))
    return Geometry(rows=rows, ways=ways, buckets=owned // ways) if owned >= ways else None
