"""What is known of every user and every video, one row a key."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.kuairand.beijing import REFERENCE_DAY
from data.kuairand.blocks import Types, cast_column, read_table
from lfm4ads.core.errors import UserError

Keys = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

NEGATIVE_BASE = 2**32
"""A negative code -c (KuaiRand writes unknown as -124) becomes the id 2^32 + c; others stay."""
BUCKETS_A_DOUBLING = 4
"""Fineness of duration buckets; KuaiRand's labels have thresholds at 7 and 18 seconds."""

USER_WORDS = (
    "user_active_degree",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
)
USER_CODES = (
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    *(f"onehot_feat{n}" for n in range(18)),
)
USER_NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
ITEM_WORDS = ("video_type", "upload_type")
ITEM_CODES = ("author_id", "music_id", "music_type")
ITEM_NUMBERS = ("video_duration", "server_width", "server_height")


@dataclass(frozen=True, kw_only=True)
class Entities:
    """Users or videos, of the features file and of the log; those of the log alone have nulls."""

    keys: Keys
    """Ascending."""
    table: pa.Table
    """Row i describes ``keys[i]``."""
    num_unknown: int
    """Keys of the log that the features file lacks."""

    def __len__(self) -> int:
        return len(self.keys)

    def index(self, keys: Keys) -> Keys:
        """Return where known keys stand."""
        return np.searchsorted(self.keys, keys)


def load_users(path: Path, *, log_keys: Keys) -> Entities:
    """Read the users file."""
    raw = _read(path, key="user_id", words=USER_WORDS, codes=USER_CODES, numbers=USER_NUMBERS)
    return _entities(raw, path=path, log_keys=log_keys)


def load_items(path: Path, *, log_keys: Keys) -> Entities:
    """Read the basic video features, but for ``visible_status``, known only at the crawl."""
    texts = (*ITEM_WORDS, "upload_dt", "tag")
    raw = _read(path, key="video_id", words=texts, codes=ITEM_CODES, numbers=ITEM_NUMBERS)
    return _entities(_derive(raw, path=path), path=path, log_keys=log_keys)


def _read(
    path: Path,
    *,
    key: str,
    words: tuple[str, ...],
    codes: tuple[str, ...],
    numbers: tuple[str, ...],
) -> pa.Table:
    """Read columns; codes pass through text, for the public files write 4 as 4.0 beside gaps."""
    types: Types = {
        key: pa.int64(),
        **dict.fromkeys((*words, *codes), pa.string()),
        **dict.fromkeys(numbers, pa.float64()),
    }
    table = read_table(path, types=types)
    for name in codes:
        table = _replace(table, name, _ids(_column(table, name), path=path, column=name))
    for name in numbers:
        table = _replace(table, name, _float32(_floats(table, name)))
    return table


def _replace(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table[name].combine_chunks()
    return column if isinstance(column, pa.Array) else column.chunk(0)


def _floats(table: pa.Table, name: str) -> Array:
    """Return numbers as float64, NaN where there is none."""
    return _column(table, name).cast(pa.float64()).to_numpy(zero_copy_only=False)


def _float32(numbers: Array) -> pa.Array:
    return pa.array(numbers.astype(np.float32), mask=~np.isfinite(numbers))


def _ids(texts: pa.Array, *, path: Path, column: str) -> pa.Array:
    """Return non-negative int64 ids of whole numbers written as text."""
    no_fraction = pc.ReplaceSubstringOptions(r"^\s*(-?\d+)(\.0+)?\s*$", r"\1")
    whole = pc.call_function("replace_substring_regex", [texts], no_fraction)
    codes = cast_column(whole, to=pa.int64(), path=path, column=column)
    values = codes.fill_null(0).to_numpy(zero_copy_only=False)
    ids = np.where(values < 0, NEGATIVE_BASE - values, values)
    return pa.array(ids, mask=codes.is_null().to_numpy(zero_copy_only=False))


def _derive(raw: pa.Table, *, path: Path) -> pa.Table:
    """Turn the upload date into an age, the duration also into a bucket, and tags into lists."""
    upload_days = cast_column(
        _column(raw, "upload_dt"), to=pa.date32(), path=path, column="upload_dt"
    ).cast(pa.int32())
    ages = int(REFERENCE_DAY.astype(np.int64)) - upload_days.to_numpy(zero_copy_only=False)
    seconds = np.maximum(_floats(raw, "video_duration"), 0) / 1000
    buckets = np.floor(BUCKETS_A_DOUBLING * np.log2(1 + seconds))
    known = np.isfinite(buckets)
    return (
        raw.drop_columns(["upload_dt", "tag"])
        .append_column("upload_age_days", _float32(ages.astype(np.float64)))
        .append_column(
            "duration_bucket", pa.array(np.where(known, buckets, 0).astype(np.int64), mask=~known)
        )
        .append_column("tag", _tags(_column(raw, "tag"), path=path))
    )


def _tags(texts: pa.Array, *, path: Path) -> pa.Array:
    """Return lists of tag ids of texts such as ``"20,43"``."""
    lists = pc.call_function("split_pattern", [texts], pc.SplitPatternOptions(","))
    tags = _ids(lists.flatten(), path=path, column="tag")
    counts = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), tags, mask=lists.is_null())


def _entities(raw: pa.Table, *, path: Path, log_keys: Keys) -> Entities:
    name = raw.schema.names[0]
    keys = _column(raw, name)
    if keys.null_count:
        raise UserError(
            f"{path}: column {name} has an empty value; mend the row or download the file again"
        )
    values: Keys = keys.to_numpy()
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise UserError(
            f"{path}: {name} {repeated[0]} has more than one row; keep one row for each {name}"
        )
    every = np.union1d(ordered, log_keys)
    rows = np.searchsorted(ordered, every)
    known = ordered[np.minimum(rows, len(ordered) - 1)] == every
    taken = pa.array(order[np.minimum(rows, len(ordered) - 1)], mask=~known)
    table = raw.take(taken).combine_chunks().set_column(0, name, pa.array(every))
    return Entities(keys=every, table=table, num_unknown=int((~known).sum()))
