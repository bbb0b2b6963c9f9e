"""What rows of a dataset say by themselves: lookups of table rows, behaviours and fields by label.

Dimension key: B rows, D rows of a table, T target categories, C behaviour categories, P positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from lfm4ads.analysis.correlation import (
    BehaviourCounts,
    Doubles,
    FieldCounts,
    Ints,
    behaviour_information,
    field_information,
)
from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Array, Ranks
from lfm4ads.data.batch import Batch
from lfm4ads.data.columns import flat, present, read_keys, read_label
from lfm4ads.data.index import Dataset, read_row_group
from lfm4ads.data.reader import Reader
from lfm4ads.data.schema import Schema
from lfm4ads.train.loop import agreed, progress

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class HistoryConfig:
    """Which histories are held against which targets."""

    behaviours: str
    """A sequence feature of categories."""
    target: str
    """The id feature it is compared with, of the same table."""
    categories: int = 10
    """So many, by how often they are targets on the first day."""
    positions: int = 10
    """So many most recent behaviours."""


@dataclass(frozen=True)
class History:
    """The ground truth of behaviours."""

    categories: Ints
    """(T,) ids, the same for targets and behaviours."""
    rows_TY: Ints
    """Labelled rows by target category and label."""
    information_TCP: Doubles
    """Bits."""


def passes(reader: Reader, days: Sequence[int], *, ranks: Ranks) -> Iterator[Batch]:
    """Yield this rank's batches of some days; one rank's error is everybody's."""
    for day in days:
        steps, source = reader.num_steps(day), reader.day(day)
        batches = progress(source, total=steps, words=f"analyse {day}", ranks=ranks)
        for batch in agreed(batches, ranks=ranks):
            if batch is not None:
                yield batch


class Traffic:
    """How often each row of each table is looked up, by feature; exact integers."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._counts = {
            name: np.zeros(schema.tables[schema.features[name].table].rows, dtype=np.int64)
            for name in schema.select(sparse=True)
            if schema.tables[schema.features[name].table].ids != "managed"
        }

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        for name, counts in self._counts.items():
            seen = np.bincount(batch.sparse[name].values().numpy(), minlength=len(counts))
            np.add(counts, seen, out=counts)

    def merged(self, ranks: Ranks) -> dict[str, dict[str, Array]]:
        """Return schema table -> feature -> lookups (D,) of all ranks. Collective."""
        merged: dict[str, dict[str, Array]] = {}
        for name, counts in self._counts.items():
            merged.setdefault(self._schema.features[name].table, {})[name] = ranks.sum(counts)
        return merged


class Fields:
    """Mutual information of pairs of fields with a label."""

    def __init__(self, schema: Schema, names: Sequence[str], *, task: str, buckets: int) -> None:
        self._task = list(schema.tasks).index(task)
        self._numbers = schema.select(kind="number")
        self._counts = FieldCounts(tuple(names), buckets=buckets)

    def add(self, batch: Batch) -> None:
        """Count the labelled rows of a batch."""
        known = (batch.masks[:, self._task] > 0).numpy()
        buckets = {name: self._buckets(batch, name)[known] for name in self._counts.names}
        self._counts.add(buckets, (batch.labels[:, self._task] > 0).numpy()[known])

    def _buckets(self, batch: Batch, name: str) -> Ints:
        """Return a bucket (B,) a row: ids by their row, numbers by their normal quantile."""
        size = self._counts.buckets
        if name in self._numbers:
            number_B = batch.numbers[:, self._numbers.index(name)]
            share_B = torch.special.ndtr(torch.nan_to_num(number_B, nan=-torch.inf))
            return (share_B * size).long().clamp(max=size - 1).numpy()
        one = batch.sparse[name]
        bucket_B = np.zeros(len(batch), dtype=np.int64)
        bucket_B[one.lengths().numpy() > 0] = one.values().numpy() % size
        return bucket_B

    def merged(self, ranks: Ranks) -> dict[tuple[str, str], float]:
        """Return bits above chance by pair of fields. Collective."""
        found = field_information(ranks.sum(self._counts.array()))
        names = self._counts.names
        return {
            (names[one], names[other]): float(bits)
            for (one, other), bits in zip(self._counts.pairs, found, strict=True)
        }


def pairable_fields(schema: Schema, *, without: Sequence[str]) -> list[str]:
    """Return the fields that have one value a row."""
    return [
        name
        for name, feature in schema.features.items()
        if feature.kind in ("id", "number") and name not in without
    ]


def count_history(
    config: HistoryConfig, dataset: Dataset, days: Sequence[int], *, task: str, ranks: Ranks
) -> History:
    """Return the information in histories: a glance at the first day's targets, then one pass.

    Columns are read as they are on the disk: ids, not rows of tables, which several may share.
    Collective.
    """
    _check(config, dataset.schema)
    categories = _most_frequent(config, dataset, days[0], ranks=ranks)
    counts = BehaviourCounts(categories, categories, positions=config.positions)
    schema = dataset.schema
    columns = [schema.column(config.target), schema.column(config.behaviours)]
    columns.append(schema.tasks[task].label)
    with ranks.together():
        for table, where in _tables(dataset, days, columns, ranks=ranks):
            label_B, known_B = read_label(
                flat(table[columns[2]]), column=columns[2], where=where, binary=True
            )
            labelled = table.filter(pa.array(known_B > 0))
            target_B, values_V, lengths_B = _history(labelled, columns, where=where)
            counts.add(target_B, values_V, lengths_B, label_B[known_B > 0] > 0)
    seen_TCPY, rows_TY = (ranks.sum(one) for one in counts.arrays())
    return History(counts.targets, rows_TY, behaviour_information(seen_TCPY, rows_TY))


def _check(config: HistoryConfig, schema: Schema) -> None:
    for name, kind in ((config.behaviours, "sequence"), (config.target, "id")):
        known = schema.select(kind=kind)  # pyright: ignore[reportArgumentType] - both are kinds
        if name not in known:
            raise UserError(
                f"history names {name}, which is no {kind} feature; those are"
                f" {', '.join(known) or 'none'}",
                everywhere=True,
            )


def _most_frequent(config: HistoryConfig, dataset: Dataset, day: int, *, ranks: Ranks) -> Ints:
    column = dataset.schema.column(config.target)
    ids = [np.zeros(0, dtype=np.int64)]
    with ranks.together():
        for table, where in _tables(dataset, [day], [column], ranks=ranks):
            values = flat(table[column]).drop_null()
            ids.append(read_keys(values, column=column, where=where))
    mine, counts = np.unique(np.concatenate(ids), return_counts=True)
    every = ranks.gather(np.stack([mine, counts], axis=1))
    known, place = np.unique(np.concatenate(every)[:, 0], return_inverse=True)
    total = np.bincount(place, weights=np.concatenate(every)[:, 1], minlength=len(known))
    # Ties go to the smaller id, whatever the order in which ranks found them.
    return np.sort(known[np.lexsort((known, -total))[: config.categories]])


def _tables(
    dataset: Dataset, days: Sequence[int], columns: Sequence[str], *, ranks: Ranks
) -> Iterator[tuple[pa.Table, str]]:
    """Yield this rank's row groups of some days, and where each is."""
    groups = [group for day in days for group in dataset.groups(day)]
    for group in groups[ranks.rank :: ranks.world]:
        where = f"{dataset.path / group.file}, row group {group.index}"
        yield read_row_group(dataset.path, group, columns=list(dict.fromkeys(columns))), where


def _history(table: pa.Table, columns: Sequence[str], *, where: str) -> tuple[Ints, Ints, Ints]:
    """Return targets (B,), -1 for none, behaviours on end (V,), and how many each row has (B,)."""
    target = flat(table[columns[0]])
    has = present(target)
    target_B = np.full(len(target), -1, dtype=np.int64)
    target_B[has] = read_keys(target.drop_null(), column=columns[0], where=where)
    lists = flat(table[columns[1]])
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    values_V = read_keys(flat(lists.flatten()), column=columns[1], where=where)
    return target_B, values_V, lengths
