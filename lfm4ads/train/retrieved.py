"""What users' lists are worth: targets of a day looked up in lists over the whole catalogue.

Dimension key: T targets, U users, K items of a list, N items of the catalogue, S seen pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.metrics.top_k import TopKMetrics, top_k_json
from lfm4ads.train.index import search_exact
from lfm4ads.train.interactions import Pairs
from lfm4ads.train.space import DaySpace, Space

Int64s = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Json = dict[str, Any]
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """Lists that are made and judged."""

    ks: tuple[int, ...] = (10, 50, 100)
    """Lengths that recall, hit rate and NDCG are taken at."""
    catalogue: Literal["domain", "all"] = "domain"
    """Items to choose from: those of the domain so far, or all that have an IR."""
    write: bool = True
    """Write the index and every user's list of the last test day."""

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"lists.ks must name positive lengths, got {list(self.ks)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What the users that this rank owns liked; the same keys on any number of ranks."""

    seen: Pairs
    """Liked in the training days: these items leave the lists, and are no targets."""
    targets: Mapping[int, Pairs]
    """Liked on each day that is evaluated."""
    warm: Int64s
    """(N,) sorted items that were shown by the end of training; the same on every rank."""


class RetrievedScores:
    """Gathers the places of targets in lists, by scenario, for all items and for cold ones."""

    def __init__(self, ks: Sequence[int], *, scenarios: int) -> None:
        self._ks = tuple(ks)
        self._scopes = [
            (scenario, items)
            for scenario in (ALL, *map(str, range(scenarios)))
            for items in (ALL, "cold")
        ]
        self._metrics = {scope: TopKMetrics(ks) for scope in self._scopes}
        self._counts = np.zeros((len(self._scopes), 2), dtype=np.int64)
        """Targets, and those outside the catalogue."""

    def update(self, space: DaySpace, truth: Truth) -> None:
        """Search the lists of a day's users and look up its targets. Not collective."""
        check_k(max(self._ks), space)
        pairs = truth.targets[space.day]
        pairs = pairs.take(~_contains(truth.seen, pairs))
        users_U, row_T = np.unique(pairs.user, return_inverse=True)
        lists_UK, _ = search_exact(
            space.queries(users_U),
            space.vectors,
            k=max(self._ks),
            hidden=hidden_places(truth.seen, users_U, items=space.items),
        )
        place_T = places_of(pairs.item, items=space.items)
        known_T = place_T >= 0
        found_TK = (lists_UK[row_T] == place_T[:, None]) & known_T[:, None]
        rank_T = np.where(found_TK.any(1), found_TK.argmax(1), -1)
        cold_T = ~np.isin(pairs.item, truth.warm)
        for position, (scenario, items) in enumerate(self._scopes):
            inside_T = (
                np.ones(len(pairs), dtype=np.bool_)
                if scenario == ALL
                else pairs.scenario == int(scenario)
            )
            inside_T = _distinct(pairs, inside_T if items == ALL else inside_T & cold_T)
            rows = inside_T & known_T
            self._counts[position] += (inside_T.sum(), (inside_T & ~known_T).sum())
            self._metrics[scenario, items].update(pairs.user[rows], places_T=rank_T[rows])

    def reduce(self, ranks: Ranks, *, split: str) -> list[Json]:
        """Return rows of ``report.json``: one a scenario, kind of items and K. Collective."""
        rows: list[Json] = []
        for (scenario, items), (targets, unknown) in zip(
            self._scopes, ranks.sum(self._counts), strict=True
        ):
            if not targets and (scenario, items) != (ALL, ALL):
                continue
            where = {"split": split, "scenario": scenario, "items": items}
            rows += [
                {**where, **top_k_json(one), "unknown_targets": int(unknown)}
                for one in self._metrics[scenario, items].reduce(ranks)
            ]
        return rows


def evaluate(
    space: Space,
    truth: Truth,
    *,
    days: Sequence[int],
    ks: Sequence[int],
    scenarios: int,
    split: str,
) -> list[Json]:
    """Return the figures of the lists of some days. Collective."""
    ranks = space.sharded.ranks
    scores = RetrievedScores(ks, scenarios=scenarios)
    for day in space.at(days):
        ranks.leave_if_stopped("run the same command to go on with the arms that are not finished")
        with ranks.together():
            scores.update(day, truth)
    return scores.reduce(ranks, split=split)


def figure_of(rows: Sequence[Json], *, k: int, name: str) -> float | None:
    """Return one figure over all scenarios and items."""
    (value,) = (
        row[name] for row in rows if (row["scenario"], row["items"], row["k"]) == (ALL, ALL, k)
    )
    return value


def check_k(k: int, space: DaySpace) -> None:
    """Refuse lists that are longer than the catalogue."""
    if k > len(space.items):
        raise UserError(
            f"ks asks for {k} items but the catalogue of {space.day} holds {len(space.items)};"
            " lower ks or widen catalogue"
        )


def places_of(asked: Int64s, *, items: Int64s) -> Int64s:
    """Return where keys (T,) stand among sorted ``items`` (N,); -1 for those that do not."""
    place_T = np.minimum(np.searchsorted(items, asked), len(items) - 1)
    return np.where(items[place_T] == asked, place_T, -1)


def hidden_places(seen: Pairs, users_U: Int64s, *, items: Int64s) -> tuple[Int64s, Int64s]:
    """Return (row of the user, place of the item) of seen pairs (S,), by ascending row."""
    row_S = np.searchsorted(users_U, seen.user)
    mine_S = (
        users_U[np.minimum(row_S, len(users_U) - 1)] == seen.user if len(users_U) else row_S < 0
    )
    row_S, place_S = row_S[mine_S], places_of(seen.item[mine_S], items=items)
    order = np.argsort(row_S[place_S >= 0], kind="stable")
    return row_S[place_S >= 0][order], place_S[place_S >= 0][order]


def _contains(seen: Pairs, pairs: Pairs) -> Mask:
    """Return whether each (user, item) is among the seen ones."""
    users, items = np.unique(seen.user), np.unique(seen.item)
    if not len(users):
        return np.zeros(len(pairs), dtype=np.bool_)
    row, place = places_of(pairs.user, items=users), places_of(pairs.item, items=items)
    known = np.unique(
        places_of(seen.user, items=users) * len(items) + places_of(seen.item, items=items)
    )
    return (row >= 0) & (place >= 0) & np.isin(row * len(items) + place, known)


def _distinct(pairs: Pairs, inside_T: Mask) -> Mask:
    """Return the first of equal (user, item) among the rows that are inside."""
    rows = np.flatnonzero(inside_T)
    order = rows[np.lexsort((pairs.item[rows], pairs.user[rows]))]
    user, item = pairs.user[order], pairs.item[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    kept = np.zeros(len(pairs), dtype=np.bool_)
    kept[order[first]] = True
    return kept
