"""Who was shown what, who liked it, and since when an item is known: keys alone, no features.

Each row group is read by one rank; what all need (items) is gathered, what belongs to a user goes
to the rank that owns the user.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lfm4ads.core.ranks import Ranks
from lfm4ads.data.columns import flat, read_keys, read_label, read_scenario
from lfm4ads.data.index import Dataset, RowGroup, read_row_group
from lfm4ads.data.owner import owner

Int64s = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """N rows."""

    user: Int64s
    item: Int64s
    scenario: Int64s
    positive: Mask

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: Int64s | Mask) -> "Pairs":
        """Return some rows."""
        return Pairs(
            user=self.user[rows],
            item=self.item[rows],
            scenario=self.scenario[rows],
            positive=self.positive[rows],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemDays:
    """The first day each of K items was shown on, the same on every rank."""

    items: Int64s
    """(K,) sorted."""
    first_day: Int64s
    """(K,) YYYYMMDD."""
    shown: dict[int, tuple[Int64s, Int64s]]
    """By day: the sorted items of its rows, and how many rows each had."""

    def until(self, day: int) -> Int64s:
        """Return the items that had been shown by the end of a day, sorted."""
        return self.items[self.first_day <= day]


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemCounts:
    """Rows and positive rows of K items over some days, the same on every rank."""

    items: Int64s
    """(K,) sorted."""
    rows: Int64s
    positives: Int64s


def item_days(dataset: Dataset, days: Sequence[int], *, task: str, ranks: Ranks) -> ItemDays:
    """Return since when the items of the dataset's rows are known. Collective."""
    items, first = np.zeros(0, np.int64), np.zeros(0, np.int64)
    shown: dict[int, tuple[Int64s, Int64s]] = {}
    for day in sorted(days):
        counts = item_counts(dataset, [day], task=task, ranks=ranks)
        shown[day] = (counts.items, counts.rows)
        new = np.setdiff1d(counts.items, items)
        items = np.concatenate([items, new])
        first = np.concatenate([first, np.full(len(new), day)])
    order = np.argsort(items)
    return ItemDays(items=items[order], first_day=first[order], shown=shown)


def item_counts(dataset: Dataset, days: Sequence[int], *, task: str, ranks: Ranks) -> ItemCounts:
    """Count the rows and positives of each item as training reads them. Collective."""
    columns = [np.zeros((0, 3), np.int64)]
    with ranks.together():
        for day in days:
            columns += [
                _counted(pairs.item, np.ones(len(pairs), np.int64), pairs.positive)
                for pairs in _pieces(dataset, day, task, ranks=ranks, final=False)
            ]
    own = _counted(*np.concatenate(columns).T)
    items, rows, positives = _counted(*np.concatenate(ranks.gather(own)).T).T
    return ItemCounts(items=items.copy(), rows=rows.copy(), positives=positives.copy())


def _counted(items: Int64s, rows: Int64s, positives: npt.NDArray[np.generic]) -> Int64s:
    """Return (item, rows, positives) of each distinct item (K, 3)."""
    keys, inverse = np.unique(items, return_inverse=True)
    counts = np.zeros((len(keys), 2), dtype=np.int64)
    np.add.at(counts, inverse, np.stack([rows, positives.astype(np.int64)], axis=1))
    return np.concatenate([keys[:, None], counts], axis=1)


def liked(dataset: Dataset, days: Sequence[int], *, task: str, ranks: Ranks, final: bool) -> Pairs:
    """Return the positive rows of the users that this rank owns. Collective.

    ``final``: take the final labels; otherwise an event counts only if it had happened by the end
    of its day, as in training.
    """
    parts = [_no_pairs()]
    with ranks.together():
        for day in days:
            parts += [
                pairs.take(pairs.positive)
                for pairs in _pieces(dataset, day, task, ranks=ranks, final=final)
            ]
    own = _joined(parts)
    owners = owner(own.user, world=ranks.world)
    rows = np.stack([own.user, own.item, own.scenario], axis=1)
    received = ranks.exchange([rows[owners == rank] for rank in range(ranks.world)])
    user, item, scenario = np.concatenate(received).T
    order = np.lexsort((scenario, item, user))  # not the order of the ranks they came from
    return Pairs(
        user=user[order],
        item=item[order],
        scenario=scenario[order],
        positive=np.ones(len(order), dtype=np.bool_),
    )


def _pieces(
    dataset: Dataset, day: int, task: str, *, ranks: Ranks, final: bool = True
) -> Iterator[Pairs]:
    """Yield this rank's row groups of a day. Not collective."""
    horizon = None if final else dataset.end_of_day(day)
    for position, group in enumerate(dataset.groups(day)):
        if position % ranks.world == ranks.rank and group.rows:
            yield _read(dataset, group, task=task, horizon=horizon)


def _read(dataset: Dataset, group: RowGroup, *, task: str, horizon: int | None) -> Pairs:
    schema, spec = dataset.schema, dataset.schema.tasks[task]
    where = f"{dataset.path / group.file}, row group {group.index}"
    columns = [schema.user, schema.item, schema.time, schema.domain, schema.scenario, spec.label]
    columns += [spec.duration] if spec.duration else []
    table = read_row_group(dataset.path, group, columns=list(dict.fromkeys(columns)))
    if dataset.is_selected:
        table = table.filter(pa.array(dataset.wanted(table, where=where)))

    def keys(column: str) -> Int64s:
        return read_keys(flat(table[column]), column=column, where=where)

    label, known = read_label(flat(table[spec.label]), column=spec.label, where=where, binary=True)
    positive = label * known > 0
    if spec.duration and horizon is not None:
        delay, happened = read_label(
            flat(table[spec.duration]), column=spec.duration, where=where, binary=False
        )
        positive &= (happened > 0) & (delay <= horizon - keys(schema.time))
    scenario = read_scenario(table, schema, where=where)
    if spec.scenarios:
        positive &= np.isin(scenario, spec.scenarios)
    if spec.domains:
        wanted = [schema.domains.index(name) for name in spec.domains]
        positive &= np.isin(keys(schema.domain), wanted)
    return Pairs(
        user=keys(schema.user), item=keys(schema.item), scenario=scenario, positive=positive
    )


def _no_pairs() -> Pairs:
    none = np.zeros(0, dtype=np.int64)
    return Pairs(user=none, item=none, scenario=none, positive=np.zeros(0, dtype=np.bool_))


def _joined(parts: Sequence[Pairs]) -> Pairs:
    return Pairs(
        user=np.concatenate([part.user for part in parts]),
        item=np.concatenate([part.item for part in parts]),
        scenario=np.concatenate([part.scenario for part in parts]),
        positive=np.concatenate([part.positive for part in parts]),
    )
