"""Id, ids and sequence columns as flat arrays, with the ages of a sequence's events.

Dimension key: N rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lfm4ads.core.errors import UserError
from lfm4ads.data.columns import flat, not_null, present, read_keys
from lfm4ads.data.hashing import hash_ids, mix_ids
from lfm4ads.data.schema import Feature, TableSpec

Array = npt.NDArray[Any]


@dataclass
class Ragged:
    """Table rows of a sparse feature: ``values[offsets[i]:offsets[i + 1]]`` belong to row i."""

    values: Array
    offsets: Array
    ages: Array | None = None
    """Seconds (float32) from each value's event to the row, where the feature has times."""


@dataclass(frozen=True)
class Ages:
    """What a column of event times says: flat ages, and how many events every row has."""

    column: str
    seconds: Array
    counts: Array


def read_ages(values: pa.Array, *, row_time: Array, column: str, where: str) -> Ages:
    """Return the ages of events at the rows' times (N,) of a list column of event times."""
    counts = _list_lengths(values)
    times_ms = read_keys(flat(values.flatten()), column=column, where=where)
    ages_ms = np.repeat(row_time, counts) - times_ms
    if len(ages_ms) and ages_ms.min() < 0:
        raise UserError(
            f"{where}: column {column} has an event {-ages_ms.min()} ms after its row, a leak;"
            " keep only what had happened by the row's time"
        )
    begins = np.zeros(len(ages_ms) + 1, dtype=bool)
    begins[np.cumsum(counts)] = True
    if (np.diff(ages_ms) > 0)[~begins[1:-1]].any():
        raise UserError(
            f"{where}: column {column} has a later event before an earlier one;"
            " write events oldest first"
        )
    return Ages(column, (ages_ms / 1000).astype(np.float32), counts)


def read_ids(
    values: pa.Array,
    feature: Feature,
    *,
    table: TableSpec,
    column: str,
    where: str,
    ages: Ages | None = None,
) -> Ragged:
    """Return ids of an id, ids or sequence column as its table takes them.

    Rows for a table with ``ids: hash``, mixed ids for a managed one; an allowed null is an empty
    bag.
    """
    if not feature.nullable:
        not_null(values, column=column, where=where)
    seconds = None
    if feature.kind == "id":
        ids = read_keys(values.drop_null(), column=column, where=where)
        counts = present(values).astype(np.int64)
    else:
        counts = _list_lengths(values)
        ids = read_keys(flat(values.flatten()), column=column, where=where)
        if ages:
            seconds = _ages_of(counts, ages=ages, column=column, where=where)
        if feature.max_length and counts.max(initial=0) > feature.max_length:
            last, counts = _last_of_each(counts, keep=feature.max_length)
            ids, seconds = ids[last], None if seconds is None else seconds[last]
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    match table.ids:
        case "hash":
            taken = hash_ids(ids, table=feature.table, rows=table.rows)
        case "managed":
            taken = mix_ids(ids, table=feature.table)
    return Ragged(taken, offsets, seconds)


def _list_lengths(values: pa.Array) -> Array:
    lengths = pc.fill_null(pc.call_function("list_value_length", [values]), 0)
    return lengths.to_numpy(zero_copy_only=False).astype(np.int64)


def _ages_of(counts: Array, *, ages: Ages, column: str, where: str) -> Array:
    differ = np.flatnonzero(counts != ages.counts)
    if len(differ):
        row = differ[0]
        raise UserError(
            f"{where}: column {ages.column} has {ages.counts[row]} times in a row where {column}"
            f" has {counts[row]} ids; write one time for each id"
        )
    return ages.seconds


def _last_of_each(counts: Array, *, keep: int) -> tuple[Array, Array]:
    """Return where the last ``keep`` values of every list are, and how many of each there are."""
    kept = np.minimum(counts, keep)
    ends = np.repeat(np.cumsum(counts), kept)
    back = np.repeat(np.cumsum(kept), kept) - np.arange(kept.sum())
    return ends - back, kept
