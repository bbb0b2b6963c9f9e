"""A day of the log as the rows of a dataset."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.kuairand.beijing import hours, weekdays
from data.kuairand.entities import Entities
from data.kuairand.log import LABELS, NO_LABEL, Log
from data.kuairand.past import Past
from data.kuairand.schema import ADS_TABS
from data.kuairand.vectors import Space

Array = npt.NDArray[Any]

BLOCK_ROWS = 65_536
"""Rows joined at a time: sequences take about 1 KB a row before compression."""


def day_blocks(
    log: Log, *, first_row_id: int, users: Entities, items: Entities, past: Past, space: Space
) -> Iterator[pa.Table]:
    """Yield the rows of one day of ``log`` joined with what was known when the day began."""
    people = _widen(users.table, columns=past.user_columns(items))
    videos = _widen(items.table, columns=past.item_columns())
    for start in range(0, len(log), BLOCK_ROWS):
        part = log.select(slice(start, start + BLOCK_ROWS))
        columns = _own_columns(part, first_row_id=first_row_id + start)
        user, video = users.index(part.users), items.index(part.videos)
        for table, index in ((people, user), (videos, video)):
            joined = table.take(pa.array(index)).combine_chunks()
            columns.update(zip(joined.schema.names, joined.columns, strict=True))
        columns["user_vector"] = space.users.column(user)
        columns["video_vector"] = space.videos.column(video)
        yield pa.table(columns)


def _widen(table: pa.Table, *, columns: dict[str, pa.Array]) -> pa.Table:
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def _own_columns(log: Log, *, first_row_id: int) -> dict[str, Any]:
    untimed = ~log.is_timed
    return {
        "row_id": pa.array(np.arange(first_row_id, first_row_id + len(log), dtype=np.int64)),
        "time_ms": pa.array(log.times_ms),
        "domain": pa.array(np.isin(log.tabs, ADS_TABS).astype(np.int8)),
        "scenario": pa.array(log.tabs),
        "hour": pa.array(hours(log.times_ms), mask=untimed),
        "weekday": pa.array(weekdays(log.times_ms), mask=untimed),
        **{name: _label(getattr(log, name)) for name in LABELS},
    }


def _label(values: Array) -> pa.Array:
    return pa.array(values, mask=values == NO_LABEL)
