"""Id, ids and sequence columns as table rows, with the ages of a sequence's events.

Dimension key: N rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fbgemm_gpu  # noqa: F401 - registers torch.ops.fbgemm
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.data.columns import flat, not_null, present, read_keys
from lfm4ads.data.hashing import hash_ids, mix_ids
from lfm4ads.data.schema import Feature, TableSpec

Array = npt.NDArray[Any]


NO_ID = -1
"""In the place of a table row where a row's id is null."""


@dataclass
class Ragged:
    """Table rows (int64) of a list feature, row by row, and how many (N,) int32 each row has."""

    values: Array
    counts: Array
    ages: Array | None = None
    """Seconds (float32) from each value's event to the row, where the feature has times."""

    @property
    def num_bytes(self) -> int:
        """Memory of all arrays."""
        return sum(one.nbytes for one in (self.values, self.counts, self.ages) if one is not None)

    def slice(self, start: int, stop: int) -> "Ragged":
        """Return the lists ``start`` to ``stop`` without copying."""
        first = int(self.counts[:start].sum())
        values = slice(first, first + int(self.counts[start:stop].sum()))
        ages = None if self.ages is None else self.ages[values]
        return Ragged(self.values[values], self.counts[start:stop], ages)

    def take(self, order: Array) -> "Ragged":
        """Return the lists (M,) at ``order``."""
        places, counts = (torch.from_numpy(one.astype(np.int32)) for one in (order, self.counts))
        values = torch.from_numpy(self.values)
        ages = None if self.ages is None else torch.from_numpy(self.ages)
        # FBGEMM copies list by list: ten times as fast as numpy by the place of every value.
        taken: tuple[torch.Tensor, ...] = torch.ops.fbgemm.permute_1D_sparse_data(
            places, counts, values, ages, None
        )
        of_taken = None if ages is None else taken[2].numpy()
        return Ragged(taken[1].numpy(), taken[0].numpy(), of_taken)


def join_ragged(columns: Sequence[Ragged]) -> Ragged:
    """Return the lists of all columns, one after the other."""
    ages = [column.ages for column in columns if column.ages is not None]
    return Ragged(
        np.concatenate([column.values for column in columns]),
        np.concatenate([column.counts for column in columns]),
        np.concatenate(ages) if ages else None,
    )


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


def read_id(
    values: pa.Array, feature: Feature, *, table: TableSpec, column: str, where: str
) -> Array:
    """Return the ids (N,) of an id column as its table takes them; ``NO_ID`` for an allowed null.

    Rows, or mixed ids for a managed table.
    """
    if not feature.nullable:
        not_null(values, column=column, where=where)
    if not values.null_count:
        ids = read_keys(values, column=column, where=where)
        return _taken(ids, feature, table=table, column=column, where=where)
    ids = np.full(len(values), NO_ID)
    known = read_keys(values.drop_null(), column=column, where=where)
    ids[present(values)] = _taken(known, feature, table=table, column=column, where=where)
    return ids


def read_ids(
    values: pa.Array,
    feature: Feature,
    *,
    table: TableSpec,
    column: str,
    where: str,
    ages: Ages | None = None,
) -> Ragged:
    """Return the ids of an ids or sequence column as ``read_id`` does; a null is an empty list."""
    if not feature.nullable:
        not_null(values, column=column, where=where)
    counts, seconds = _list_lengths(values), None
    ids = read_keys(flat(values.flatten()), column=column, where=where)
    if ages:
        seconds = _ages_of(counts, ages=ages, column=column, where=where)
    if feature.max_length and counts.max(initial=0) > feature.max_length:
        last, counts = _last_of_each(counts, keep=feature.max_length)
        ids, seconds = ids[last], None if seconds is None else seconds[last]
    rows = _taken(ids, feature, table=table, column=column, where=where)
    return Ragged(rows, counts.astype(np.int32), seconds)


def _taken(ids: Array, feature: Feature, *, table: TableSpec, column: str, where: str) -> Array:
    match table.ids:
        case "rows":
            if ids.max(initial=0) >= table.rows:
                raise UserError(
                    f"{where}: column {column} has id {ids.max()}, but ids are rows of table"
                    f" {feature.table}, which has {table.rows}; give it more rows, or ids: hash"
                )
            return ids
        case "hash":
            return hash_ids(ids, table=feature.table, rows=table.rows)
        case "managed":
            return mix_ids(ids, table=feature.table)


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
