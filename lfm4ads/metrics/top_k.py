"""Recall, hit rate and NDCG of lists of items, averaged over users, with intervals over users.

Dimension key: T targets, U users, K items of a list.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lfm4ads.core.ranks import Ranks

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """A mean over lists, None without any, and its 95 % interval, None with a single user.

    Users are what is drawn: the lists of one user on several days move together.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class TopKFigures:
    """Means over the lists that had a target."""

    k: int
    recall: Mean
    """Share of a list's targets among its first K."""
    hit_rate: Mean
    """Share of lists with a target among the first K."""
    ndcg: Mean
    """Sum of 1 / log2(place + 1) of targets among the first K, over the largest it can be."""
    users: int
    lists: int
    targets: int


class TopKMetrics:
    """Sums per user, for several K; a user must always be given to the same rank."""

    def __init__(self, ks: Sequence[int]) -> None:
        self.ks = tuple(ks)
        self._users: list[Int64s] = [np.zeros(0, np.int64)]
        self._sums: list[Floats] = [np.zeros((0, 2 + 3 * len(self.ks)))]

    def update(self, users_T: Int64s, *, places_T: Int64s) -> None:
        """Add one day's targets, a distinct item of a user each.

        Args:
            users_T: Keys of the users.
            places_T: From 0 where the target stands in its user's list; -1 if it is not there.
        """
        users_U, row_T = np.unique(users_T, return_inverse=True)
        count_U = np.bincount(row_T, minlength=len(users_U)).astype(np.float64)
        columns = [np.ones(len(users_U)), count_U]
        found_T = places_T >= 0
        gain_T = np.where(found_T, 1.0 / np.log2(np.where(found_T, places_T, 0) + 2.0), 0.0)
        for k in self.ks:
            inside_T = found_T & (places_T < k)
            hits_U = np.bincount(row_T, weights=inside_T, minlength=len(users_U))
            gain_U = np.bincount(row_T, weights=gain_T * inside_T, minlength=len(users_U))
            ideal_K = np.cumsum(1.0 / np.log2(np.arange(k) + 2.0))
            ideal_U = ideal_K[np.minimum(count_U, k).astype(np.int64) - 1]
            columns += [hits_U / count_U, (hits_U > 0).astype(np.float64), gain_U / ideal_U]
        self._users.append(users_U)
        self._sums.append(np.stack(columns, axis=1))

    def reduce(self, ranks: Ranks) -> list[TopKFigures]:
        """Return the figures over all ranks, one a K, the same on every rank. Collective."""
        users = np.concatenate(ranks.gather(np.concatenate(self._users)))
        sums = np.concatenate(ranks.gather(np.concatenate(self._sums)))
        # In the order of the keys, so that the number of ranks does not show in the last bit.
        order = np.argsort(users, kind="stable")
        keys_U, first_U = np.unique(users[order], return_index=True)
        sums_U = np.add.reduceat(sums[order], first_U) if len(keys_U) else sums
        lists_U, targets = sums_U[:, 0], int(sums_U[:, 1].sum())
        return [
            TopKFigures(
                k=k,
                recall=_ratio(sums_U[:, 2 + 3 * position], lists_U),
                hit_rate=_ratio(sums_U[:, 3 + 3 * position], lists_U),
                ndcg=_ratio(sums_U[:, 4 + 3 * position], lists_U),
                users=len(keys_U),
                lists=int(lists_U.sum()),
                targets=targets,
            )
            for position, k in enumerate(self.ks)
        ]


def top_k_json(figures: TopKFigures) -> dict[str, float | int | None]:
    """Return the figures as a row of ``report.json``; None becomes null."""
    means = {"recall": figures.recall, "hit_rate": figures.hit_rate, "ndcg": figures.ndcg}
    row: dict[str, float | int | None] = {"k": figures.k}
    for name, mean in means.items():
        row |= {name: mean.value, f"{name}_low": mean.low, f"{name}_high": mean.high}
    return row | {"users": figures.users, "lists": figures.lists, "targets": figures.targets}


def _ratio(values_U: Floats, lists_U: Floats) -> Mean:
    """Return sum(values) / sum(lists) with its interval over users."""
    if not len(values_U):
        return Mean(None, None, None)
    total = float(lists_U.sum())
    mean = float(values_U.sum()) / total
    if len(values_U) < 2:
        return Mean(mean, None, None)
    residual_U = values_U - mean * lists_U
    variance = (residual_U**2).sum() * len(values_U) / (len(values_U) - 1)
    half = 1.96 * float(np.sqrt(variance)) / total
    return Mean(mean, max(mean - half, 0.0), min(mean + half, 1.0))
