"""The exposure log as plain arrays in time order."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.kuairand.beijing import dates
from data.kuairand.blocks import Types, read_blocks
from data.kuairand.history import spread_over_days
from data.kuairand.source import Source
from lfm4ads.core.errors import UserError

Array = npt.NDArray[Any]

NUM_TABS = 15
HISTORY_TAB = NUM_TABS
"""Scenario of the subset's history rows, whose tab is unknown."""
NO_LABEL = -1

LABELS = ("is_click", "is_like", "long_view", "is_profile_enter")
LOG_TYPES: Types = {
    **dict.fromkeys(("user_id", "video_id", "time_ms"), pa.int64()),
    **dict.fromkeys((*LABELS, "tab"), pa.int8()),
    **dict.fromkeys(("is_follow", "is_comment", "is_forward", "is_hate"), pa.int64()),
    **dict.fromkeys(("date", "hourmin", "play_time_ms", "duration_ms"), pa.int64()),
    **dict.fromkeys(("profile_stay_time", "comment_stay_time"), pa.int64()),
}
"""Every column of a log but ``is_rand``; what is not kept only tells duplicates apart."""
HISTORY_TYPES: Types = {
    **dict.fromkeys(("user_id", "video_id", "pos"), pa.int64()),
    **dict.fromkeys(("long_view", "is_like"), pa.int8()),
}


@dataclass(frozen=True, kw_only=True)
class Log:
    """Exposures, one per position of every array; labels are 0, 1 or ``NO_LABEL``."""

    users: Array
    """Keys, int64."""
    videos: Array
    """Keys, int64."""
    times_ms: Array
    tabs: Array
    """int8, 0..15."""
    is_click: Array
    is_like: Array
    long_view: Array
    is_profile_enter: Array
    is_timed: Array
    """False where ``times_ms`` is an ordinal pseudo-time."""
    digests: Array
    """uint64 over all that is not user, video or time; breaks ties and tells duplicates apart."""

    def __len__(self) -> int:
        return len(self.users)

    def select(self, rows: slice | Array) -> Self:
        """Return some rows."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def days(self) -> Iterator[tuple[int, slice]]:
        """Yield each day (YYYYMMDD) and where its rows are."""
        days = dates(self.times_ms)
        starts = np.flatnonzero(np.diff(days, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(self)], strict=True):
            yield int(days[start]), slice(int(start), int(end))


def load_log(source: Source) -> Log:
    """Read every exposure of ``source`` in the order of time, user, video.

    Rows equal in every column are one row: the public files repeat some.
    """
    parts = [
        _timed(path, block) for path in source.logs for block in read_blocks(path, types=LOG_TYPES)
    ]
    if source.history:
        parts.append(_load_history(source.history))
    log = _concatenate(parts)
    log = log.select(np.lexsort((log.digests, log.videos, log.users, log.times_ms)))
    return log.select(~_repeats_previous(log))


def _timed(path: Path, block: pa.RecordBatch) -> Log:
    values = _checked(path, block)
    outside = (values["tab"] < 0) | (values["tab"] >= NUM_TABS)
    if outside.any():
        raise UserError(
            f"{path}: column tab has {values['tab'][outside][0]} but tabs are 0..{NUM_TABS - 1}; "
            "download the file again"
        )
    return Log(
        users=values["user_id"],
        videos=values["video_id"],
        times_ms=values["time_ms"],
        tabs=values["tab"],
        is_click=values["is_click"],
        is_like=values["is_like"],
        long_view=values["long_view"],
        is_profile_enter=values["is_profile_enter"],
        is_timed=np.ones(block.num_rows, dtype=bool),
        digests=_digest([values[name] for name in LOG_TYPES][3:]),
    )


def _load_history(path: Path) -> Log:
    blocks = [_checked(path, block) for block in read_blocks(path, types=HISTORY_TYPES)]
    values = {name: np.concatenate([block[name] for block in blocks]) for name in HISTORY_TYPES}
    num_rows = len(values["user_id"])
    unknown = np.full(num_rows, NO_LABEL, dtype=np.int8)
    return Log(
        users=values["user_id"],
        videos=values["video_id"],
        times_ms=spread_over_days(users=values["user_id"], positions=values["pos"]),
        tabs=np.full(num_rows, HISTORY_TAB, dtype=np.int8),
        is_click=unknown,
        is_like=values["is_like"],
        long_view=values["long_view"],
        is_profile_enter=unknown,
        is_timed=np.zeros(num_rows, dtype=bool),
        digests=_digest([values["pos"]]),
    )


def _checked(path: Path, block: pa.RecordBatch) -> dict[str, Array]:
    """Return the columns as arrays: none null, no key negative, every label 0 or 1."""
    for name in block.schema.names:
        column = block.column(name)
        if column.null_count:
            raise UserError(f"{path}: column {name} has an empty value; download the file again")
        values = column.to_numpy(zero_copy_only=False)
        wrong = (
            values < 0 if name in ("user_id", "video_id") else (values >> 1 != 0) & (name in LABELS)
        )
        if wrong.any():
            allowed = "0 or 1" if name in LABELS else "0 or more"
            raise UserError(
                f"{path}: column {name} has {values[wrong][0]} but must be {allowed}; "
                "download the file again"
            )
    return {name: block.column(name).to_numpy(zero_copy_only=False) for name in block.schema.names}


def _digest(columns: list[Array]) -> Array:
    """Return a 64-bit digest per row (two different rows agree with probability 2^-64)."""
    digest = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        digest = (digest ^ column.astype(np.int64).view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        digest ^= digest >> np.uint64(29)
    return digest


def _concatenate(parts: list[Log]) -> Log:
    return Log(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Log)
        }
    )


def _repeats_previous(log: Log) -> Array:
    repeats = np.ones(len(log), dtype=bool)
    repeats[:1] = False
    for column in (log.users, log.videos, log.times_ms, log.digests):
        repeats[1:] &= column[1:] == column[:-1]
    return repeats & log.is_timed
