"""What users clicked of late: the last content items of each, from days before.

The state is bounded by the rows of the last days, whatever the number of users in the world.
Dimension key: C clicks kept, A users, L sequence length.
"""

from dataclasses import dataclass

import numpy as np

from data.adsworld.hashing import Ints


@dataclass(frozen=True, kw_only=True)
class HistoryConfig:
    """How much of the past a row carries."""

    length: int = 10
    """Clicks a user."""
    days: int = 7
    """Older clicks are forgotten."""

    def __post_init__(self) -> None:
        if self.length < 1 or self.days < 1:
            raise ValueError(
                f"history length and days must be at least 1, got {self.length} and {self.days}"
            )


@dataclass(frozen=True, kw_only=True)
class History:
    """Clicks, grouped by user and in time order within one (C each)."""

    user: Ints
    """User index, ascending."""
    item: Ints
    """Item key."""
    index: Ints
    """Item index within the content domain."""
    category: Ints
    time: Ints
    """Milliseconds since 1970."""

    def runs(self, users: Ints) -> tuple[Ints, Ints]:
        """Return where each user's clicks start and how many there are (A each)."""
        start = np.searchsorted(self.user, users, side="left")
        return start, np.searchsorted(self.user, users, side="right") - start


def empty_history() -> History:
    """Return the history of a world that has just begun."""
    none = np.zeros(0, dtype=np.int64)
    return History(user=none, item=none, index=none, category=none, time=none)


def extend_history(
    history: History, *, config: HistoryConfig, clicks: History, oldest_time: int
) -> History:
    """Add later clicks (rows in time order) and forget what is too old or too many."""
    known = history.time >= oldest_time
    user = np.concatenate([history.user[known], clicks.user])
    order = np.argsort(user, kind="stable")
    user = user[order]
    after = np.searchsorted(user, user, side="right") - np.arange(len(user))
    kept = order[after <= config.length]
    columns = {
        name: np.concatenate([getattr(history, name)[known], getattr(clicks, name)])[kept]
        for name in vars(history)
    }
    return History(**columns)
