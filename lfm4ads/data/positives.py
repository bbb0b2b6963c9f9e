"""How many rows and positives of each task every user has on some days, streamed.

Dimension key: U users, N rows, T tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lfm4ads.data.index import Dataset
from lfm4ads.data.rows import read_outcomes

Array = npt.NDArray[Any]
Int64s = npt.NDArray[np.int64]
_MERGE_ROWS = 2**18
"""Counts that wait before they are merged: memory is that of the users, whatever the rows."""


@dataclass(frozen=True, kw_only=True)
class Positives:
    """Counts of users, sorted by key."""

    tasks: tuple[str, ...]
    user_U: Int64s
    rows_UT: Int64s
    """Rows that carry the task's label."""
    positives_UT: Int64s

    def of(self, task: str) -> tuple[Int64s, Int64s]:
        """Return a task's rows and positives (U,) of every user."""
        column = self.tasks.index(task)
        return self.rows_UT[:, column], self.positives_UT[:, column]


def count_positives(dataset: Dataset, *, days: Sequence[int]) -> Positives:
    """Return the counts over ``days`` of every task of the schema that is binary.

    What happened after the last of the days was closed is not known yet, and does not count.
    """
    known_until = dataset.end_of_day(max(days))
    horizons = dict.fromkeys(dataset.schema.tasks, known_until)
    columns = [list(dataset.schema.tasks).index(task) for task in dataset.schema.binary_tasks]
    counts = _Counts(num_tasks=len(columns))
    for day in days:
        for group in dataset.groups(day):
            found = read_outcomes(dataset, group, horizons=horizons)
            rows_NT = found["masks"][:, columns] > 0
            counts.add(
                found["user"],
                rows_NT=rows_NT,
                positives_NT=rows_NT & (found["labels"] > 0)[:, columns],
            )
    counts.merge()
    return Positives(
        tasks=tuple(dataset.schema.binary_tasks),
        user_U=counts.user_U,
        rows_UT=counts.count_UT[:, : len(columns)],
        positives_UT=counts.count_UT[:, len(columns) :],
    )


class _Counts:
    """Counts by user, merged now and then."""

    def __init__(self, *, num_tasks: int) -> None:
        self.user_U = np.empty(0, dtype=np.int64)
        self.count_UT = np.empty((0, 2 * num_tasks), dtype=np.int64)
        self._waiting: list[tuple[Int64s, Int64s]] = []
        self._num_waiting = 0

    def add(self, user_N: Int64s, *, rows_NT: Array, positives_NT: Array) -> None:
        """Add rows."""
        self._waiting.append(_sum_by_user(user_N, np.concatenate([rows_NT, positives_NT], axis=1)))
        self._num_waiting += len(self._waiting[-1][0])
        if self._num_waiting >= _MERGE_ROWS:
            self.merge()

    def merge(self) -> None:
        """Bring what waits into ``user_U`` and ``count_UT``."""
        pieces = [(self.user_U, self.count_UT), *self._waiting]
        users, counts = (np.concatenate(each) for each in zip(*pieces, strict=True))
        self.user_U, self.count_UT = _sum_by_user(users, counts)
        self._waiting, self._num_waiting = [], 0


def _sum_by_user(user_N: Int64s, count_NT: Array) -> tuple[Int64s, Int64s]:
    user_U, place_N = np.unique(user_N, return_inverse=True)
    sums = [np.bincount(place_N, weights=count_N, minlength=len(user_U)) for count_N in count_NT.T]
    return user_U, np.stack(sums, axis=1).astype(np.int64)  # counts below 2^53 are exact
