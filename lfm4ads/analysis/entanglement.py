"""Interest entanglement: does a table serve two tasks whose interests contradict each other?

Pairs of user and item lie near or far in a task's own table. Those that are far for one task and
near for the other are in conflict; a table that serves a task puts them where the task's own table
does (arXiv 2403.00793, section on interest entanglement; arXiv 2308.13537).

Dimension key: N pairs, K width of a table, T tables, M pairs in conflict.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
NEAR, MIDDLE, FAR = 0, 1, 2
LOW, HIGH = 40.0, 60.0
"""Percentiles of a table's distances between its zones."""
BINS = 39


def pair_distances(user_NK: npt.NDArray[Any], item_NK: npt.NDArray[Any]) -> Doubles:
    """Return the Euclidean distance (N,) of each pair's rows."""
    return np.linalg.norm(user_NK.astype(np.float64) - item_NK.astype(np.float64), axis=1)


def mixture_distances(distance_NT: Doubles, weight_NT: Doubles) -> Doubles:
    """Return distances (N,) of gate-weighted tables: the mean of the tables', by the row's gates.

    Each table's distances are first divided by their median, because a gate weighs experts and
    not units of length. Ours: the paper shows single tables.
    """
    middle_T = np.median(distance_NT, axis=0)
    scaled_NT = distance_NT / np.where(middle_T > 0, middle_T, 1.0)
    return (scaled_NT * weight_NT).sum(1) / weight_NT.sum(1)


def active_pairs(
    user_count_N: npt.NDArray[Any],
    item_count_N: npt.NDArray[Any],
    *,
    user_counts: npt.NDArray[Any],
    item_counts: npt.NDArray[Any],
    percentile: float = 60.0,
) -> Mask:
    """Return which pairs (N,) have a user and an item seen more often than that percentile.

    Args:
        user_count_N: Rows of the training days with the pair's user.
        item_count_N: The same of its item.
        user_counts: Of every user of the training days.
        item_counts: Of every item.
        percentile: Of users, and of items.
    """
    least_user, least_item = (
        np.percentile(counts, percentile) for counts in (user_counts, item_counts)
    )
    return (user_count_N > least_user) & (item_count_N > least_item)


def zones(distance_N: Doubles) -> npt.NDArray[np.int64]:
    """Return each pair's zone (N,): near (40 % of them), middle (20 %) or far (40 %)."""
    low, high = np.percentile(distance_N, [LOW, HIGH])
    return np.where(distance_N <= low, NEAR, np.where(distance_N > high, FAR, MIDDLE))


@dataclass(frozen=True)
class Conflict:
    """The pairs on which two tasks contradict each other."""

    first: str
    second: str
    far_first_N: Mask
    """Far for the first task and near for the second."""
    far_second_N: Mask

    @property
    def pairs(self) -> Mask:
        """(N,) all pairs in conflict."""
        return self.far_first_N | self.far_second_N

    def wanted(self, task: str) -> npt.NDArray[np.int64]:
        """Return the zone each pair belongs to for a task; only pairs in conflict mean anything."""
        far = self.far_first_N if task == self.first else self.far_second_N
        return np.where(far, FAR, NEAR)


def find_conflict(distances: Mapping[str, Doubles]) -> Conflict:
    """Return the conflict of two tasks from the distances (N,) in each one's single-task table."""
    if len(distances) != 2:
        raise ValueError(f"a conflict is between two tasks, got {', '.join(distances) or 'none'}")
    (first, one_N), (second, other_N) = ((task, zones(d_N)) for task, d_N in distances.items())
    return Conflict(
        first,
        second,
        (one_N == FAR) & (other_N == NEAR),
        (one_N == NEAR) & (other_N == FAR),
    )


@dataclass(frozen=True)
class Entanglement:
    """Where a table, or a mixture of tables, puts the pairs in conflict."""

    correct: dict[str, float]
    """Task -> share of the pairs in conflict that are in the zone the task needs; NaN without
    such pairs."""
    edges: Doubles
    """(BINS + 1,) of the histogram."""
    all_pairs: npt.NDArray[np.int64]
    conflict_pairs: npt.NDArray[np.int64]
    """(BINS,) pairs by distance."""
    low: float
    high: float
    """Distances between the zones."""


def place_conflict(distance_N: Doubles, conflict: Conflict) -> Entanglement:
    """Return what a table makes of the conflict."""
    zone_N, pairs_N = zones(distance_N), conflict.pairs
    correct: dict[str, float] = {}
    for task in (conflict.first, conflict.second):
        right = (zone_N == conflict.wanted(task))[pairs_N]
        correct[task] = float(right.mean()) if right.size else float("nan")
    all_pairs, edges = np.histogram(distance_N, BINS)
    conflict_pairs, _ = np.histogram(distance_N[pairs_N], edges)
    low, high = (float(one) for one in np.percentile(distance_N, [LOW, HIGH]))
    return Entanglement(correct, edges.astype(np.float64), all_pairs, conflict_pairs, low, high)


def entanglement_score(correct: Mapping[str, float]) -> float:
    """Return 1 - the mean over tasks of the share in the correct zone.

    Each task enters with the table that serves it. A pair in one table can be right for one of the
    tasks only, so a single table never scores below a half.
    """
    return 1.0 - float(np.mean(list(correct.values())))
