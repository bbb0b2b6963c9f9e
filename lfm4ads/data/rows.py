"""Decoded rows as arrays that are sliced, joined and reordered with no Python per row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lfm4ads.data.columns import (
    needed_columns,
    read_index,
    read_keys,
    read_label,
    read_number,
    read_vector,
)
from lfm4ads.data.index import Dataset, RowGroup, read_row_group
from lfm4ads.data.ragged import Ragged, join_ragged, read_ages, read_id, read_ids
from lfm4ads.data.schema import Schema

Array = npt.NDArray[Any]
KEYS = ("user", "item", "time", "domain", "scenario", "row_id")
"""Columns (N,) int64 that every dataset has, by ``Batch`` name."""


@dataclass
class Rows:
    """Rows (N,) of a dataset, every column an array; see ``Batch`` for what each holds."""

    ids: Array
    """(N, F) int64, a column an id feature in the schema's order; ``NO_ID`` where there is none."""
    lists: dict[str, Ragged]
    """By ids or sequence feature."""
    arrays: dict[str, Array]
    """By ``Batch`` name: numbers (N, F), vectors (N, V), labels and masks (N, T), keys (N,)."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_bytes(self) -> int:
        """Memory of all columns."""
        arrays = sum(array.nbytes for array in (self.ids, *self.arrays.values()))
        return arrays + sum(column.num_bytes for column in self.lists.values())

    def slice(self, start: int, stop: int) -> "Rows":
        """Return rows ``start`` to ``stop`` without copying."""
        lists = {name: column.slice(start, stop) for name, column in self.lists.items()}
        arrays = {name: array[start:stop] for name, array in self.arrays.items()}
        return Rows(self.ids[start:stop], lists, arrays)

    def take(self, order: Array) -> "Rows":
        """Return a copy of the rows (M,) at ``order``."""
        lists = {name: column.take(order) for name, column in self.lists.items()}
        arrays = {name: array.take(order, axis=0) for name, array in self.arrays.items()}
        return Rows(self.ids.take(order, axis=0), lists, arrays)


class KeptRows:
    """Decoded row groups that readers of one dataset share, while they fit into a limit.

    A study of many small models on the same few rows would decode them again and again.
    """

    def __init__(self, *, limit_bytes: int = 1 << 30) -> None:
        self._limit_bytes = limit_bytes
        self._num_bytes = 0
        self._rows: dict[tuple[str, int, str], Rows] = {}

    def get(self, key: tuple[str, int, str], load: Callable[[], Rows]) -> Rows:
        """Return the rows of (file, row group, which labels), loaded if they are not here."""
        if key in self._rows:
            return self._rows[key]
        rows = load()
        if self._num_bytes + rows.num_bytes <= self._limit_bytes:
            self._rows[key] = rows
            self._num_bytes += rows.num_bytes
        return rows


def join(pieces: Sequence[Rows]) -> Rows:
    """Return the rows of all pieces, in order; there must be at least one piece."""
    if len(pieces) == 1:
        return pieces[0]
    first = pieces[0]
    return Rows(
        np.concatenate([piece.ids for piece in pieces]),
        {name: join_ragged([piece.lists[name] for piece in pieces]) for name in first.lists},
        {name: np.concatenate([piece.arrays[name] for piece in pieces]) for name in first.arrays},
    )


def no_rows(schema: Schema) -> Rows:
    """Return the columns of a dataset without a row."""
    vectors = sum(schema.features[name].length for name in schema.select(kind="vector"))
    widths = {"numbers": len(schema.select(kind="number")), "vectors": vectors}
    widths |= dict.fromkeys(("labels", "masks"), len(schema.tasks))
    arrays: dict[str, Array] = {name: np.zeros(0, np.int64) for name in KEYS}
    arrays |= {name: np.zeros((0, width), np.float32) for name, width in widths.items()}
    none = np.zeros(0, np.int64)
    lists = {
        name: Ragged(
            none,
            none.astype(np.int32),
            none.astype(np.float32) if schema.features[name].times else None,
        )
        for name in list_features(schema)
    }
    return Rows(np.zeros((0, len(schema.select(kind="id"))), np.int64), lists, arrays)


def list_features(schema: Schema) -> list[str]:
    """Return the features with a list of ids a row, in the schema's order."""
    return [name for name in schema.select(sparse=True) if schema.features[name].kind != "id"]


def decode(dataset: Dataset, group: RowGroup, *, horizons: Mapping[str, int] | None = None) -> Rows:
    """Read one row group, keep the selected rows, check every column and turn it into arrays.

    ``horizons`` (ms, by task): a time_to_event label counts only if its event had happened by then;
    None takes the final labels.
    """
    schema = dataset.schema
    where = f"{dataset.path / group.file}, row group {group.index}"
    table = read_row_group(dataset.path, group, columns=needed_columns(schema))
    if dataset.is_selected:
        table = table.filter(pa.array(dataset.wanted(table, where=where)))
    columns = {name: _one(table[name]) for name in table.column_names}
    arrays = _keys(columns, schema, where=where)
    arrays["numbers"] = _numbers(columns, schema, where=where, rows=table.num_rows)
    arrays["vectors"] = _vectors(columns, schema, where=where, rows=table.num_rows)
    arrays["labels"], arrays["masks"] = _labels(
        columns, schema, arrays, where=where, horizons=horizons
    )
    ids = _ids(columns, schema, where=where, rows=table.num_rows)
    return Rows(ids, _lists(columns, schema, row_time=arrays["time"], where=where), arrays)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _keys(columns: dict[str, pa.Array], schema: Schema, *, where: str) -> dict[str, Array]:
    keys = {
        "user": read_keys(columns[schema.user], column=schema.user, where=where),
        "item": read_keys(columns[schema.item], column=schema.item, where=where),
        "time": read_keys(columns[schema.time], column=schema.time, where=where),
        "domain": read_index(
            columns[schema.domain], column=schema.domain, size=len(schema.domains), where=where
        ),
        "scenario": read_index(
            columns[schema.scenario],
            column=schema.scenario,
            size=len(schema.scenarios),
            where=where,
        ),
    }
    if schema.row_id:
        keys["row_id"] = read_keys(columns[schema.row_id], column=schema.row_id, where=where)
    else:
        keys["row_id"] = np.full(len(keys["user"]), -1, dtype=np.int64)
    return keys


def _ids(columns: dict[str, pa.Array], schema: Schema, *, where: str, rows: int) -> Array:
    names = schema.select(kind="id")
    ids = np.empty((len(names), rows), dtype=np.int64)
    for place, name in enumerate(names):
        feature, column = schema.features[name], schema.column(name)
        table = schema.tables[feature.table]
        ids[place] = read_id(columns[column], feature, table=table, column=column, where=where)
    # Rows are what is gathered later, in any order.
    return np.ascontiguousarray(ids.T)


def _lists(
    columns: dict[str, pa.Array], schema: Schema, *, row_time: Array, where: str
) -> dict[str, Ragged]:
    shared = dict.fromkeys(feature.times for feature in schema.features.values() if feature.times)
    ages = {
        times: read_ages(columns[times], row_time=row_time, column=times, where=where)
        for times in shared
    }
    return {
        name: read_ids(
            columns[schema.column(name)],
            schema.features[name],
            table=schema.tables[schema.features[name].table],
            column=schema.column(name),
            where=where,
            ages=ages.get(schema.features[name].times),
        )
        for name in list_features(schema)
    }


def _numbers(columns: dict[str, pa.Array], schema: Schema, *, where: str, rows: int) -> Array:
    names = schema.select(kind="number")
    numbers = np.empty((rows, len(names)), dtype=np.float32)
    for position, name in enumerate(names):
        column = schema.column(name)
        numbers[:, position] = read_number(
            columns[column], schema.features[name], column=column, where=where
        )
    return numbers


def _vectors(columns: dict[str, pa.Array], schema: Schema, *, where: str, rows: int) -> Array:
    pieces = [np.empty((rows, 0), dtype=np.float32)]
    for name in schema.select(kind="vector"):
        column = schema.column(name)
        pieces.append(
            read_vector(columns[column], schema.features[name], column=column, where=where)
        )
    return np.concatenate(pieces, axis=1)


def _labels(
    columns: dict[str, pa.Array],
    schema: Schema,
    keys: dict[str, Array],
    *,
    where: str,
    horizons: Mapping[str, int] | None,
) -> tuple[Array, Array]:
    labels, masks = [], []
    for name, task in schema.tasks.items():
        label, mask = read_label(
            columns[task.label], column=task.label, where=where, binary=task.kind != "real"
        )
        if task.duration and horizons is not None:
            delay, known = read_label(
                columns[task.duration], column=task.duration, where=where, binary=False
            )
            label = label * known * (delay <= horizons[name] - keys["time"])
        if task.domains:
            mask = mask * np.isin(
                keys["domain"], [schema.domains.index(name) for name in task.domains]
            )
        if task.scenarios:
            mask = mask * np.isin(keys["scenario"], task.scenarios)
        labels.append(label * mask)
        masks.append(mask)
    return np.stack(labels, axis=1).astype(np.float32), np.stack(masks, axis=1).astype(np.float32)


def read_outcomes(
    dataset: Dataset, group: RowGroup, *, horizons: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Return one row group's user (N,), labels and masks (N, T), as ``decode`` has them.

    No feature is read.
    """
    schema = dataset.schema
    where = f"{dataset.path / group.file}, row group {group.index}"
    outcomes = [column for task in schema.tasks.values() for column in (task.label, task.duration)]
    keys = (schema.user, schema.item, schema.time, schema.domain, schema.scenario, schema.row_id)
    wanted = [column for column in dict.fromkeys((*keys, *outcomes)) if column]
    table = read_row_group(dataset.path, group, columns=wanted)
    if dataset.is_selected:
        table = table.filter(pa.array(dataset.wanted(table, where=where)))
    columns = {name: _one(table[name]) for name in table.column_names}
    arrays = _keys(columns, schema, where=where)
    labels, masks = _labels(columns, schema, arrays, where=where, horizons=horizons)
    return {"user": arrays["user"], "labels": labels, "masks": masks}


def day_keys(path: Path, group: RowGroup, *, column: str) -> Array:
    """Return the int64 keys of one row group's key column."""
    values = _one(read_row_group(path, group, columns=[column])[column])
    return read_keys(values, column=column, where=f"{path / group.file}, row group {group.index}")
