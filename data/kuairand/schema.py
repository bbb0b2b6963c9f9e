"""KuaiRand's columns as a dataset schema."""

import pyarrow as pa

from data.kuairand.entities import ITEM_WORDS, USER_CODES, USER_WORDS, Entities
from data.kuairand.log import NUM_TABS
from data.kuairand.moments import Moments
from data.kuairand.vectors import VECTOR_LENGTH
from lfm4ads.data.schema import Feature, Schema, Side, TableSpec, Task

DOMAINS = ("content", "ads")
ADS_TABS = (0, 2, 4, 6)
"""The tabs that stand for ads; every other tab is content."""
SCENARIOS = (*(f"tab_{tab}" for tab in range(NUM_TABS)), "history")

USER_NUMBERS = {
    "follow_user_num": True,
    "fans_user_num": True,
    "friend_user_num": True,
    "register_days": True,
    "user_exposures": True,
    "user_long_view_rate": False,
}
"""Number columns and whether they are read through a logarithm."""
ITEM_NUMBERS = {
    "video_duration": True,
    "server_width": True,
    "server_height": True,
    "upload_age_days": True,
    "item_exposures": True,
    "item_long_view_rate": False,
}
NUMBERS = {**USER_NUMBERS, **ITEM_NUMBERS}

KEY_SPREAD = 4
"""Rows for each key: with 4, one key in five shares its row with another; with 2, two in five."""
CODE_SPREAD = 16
MAX_ROWS = 2**23


def build_schema(
    users: Entities, *, items: Entities, history: Moments, reference: Moments, length: int
) -> Schema:
    """Return the schema.

    Args:
        users: sizes the user tables.
        items: sizes the video tables.
        history: moments of the numbers before 25 April.
        reference: moments on 25 April, for numbers that have no value earlier.
        length: events kept in a behaviour sequence.
    """
    return Schema(
        version=1,
        name="kuairand",
        user="user_id",
        item="video_id",
        time="time_ms",
        domain="domain",
        scenario="scenario",
        row_id="row_id",
        domains=DOMAINS,
        scenarios=SCENARIOS,
        tables=_tables(users, items=items),
        features={
            **_user_features(length),
            **_item_features(),
            **_context_features(),
            **_numbers(USER_NUMBERS, side="user", history=history, reference=reference),
            **_numbers(ITEM_NUMBERS, side="item", history=history, reference=reference),
        },
        tasks={
            "click": Task(label="is_click"),
            "long_view": Task(label="long_view"),
            "like": Task(label="is_like"),
            "profile_enter": Task(label="is_profile_enter"),
        },
    )


def _user_features(length: int) -> dict[str, Feature]:
    codes = {
        name: Feature(kind="id", side="user", table=name, nullable=True)
        for name in (*USER_WORDS, *USER_CODES)
    }
    return {
        "user_id": Feature(kind="id", side="user", table="user"),
        **codes,
        "recent_long_views": Feature(
            kind="sequence",
            side="user",
            table="video",
            times="recent_long_view_times",
            max_length=length,
        ),
        "recent_exposed": Feature(
            kind="sequence",
            side="user",
            table="video",
            times="recent_exposed_times",
            max_length=length,
        ),
        "recent_authors": Feature(kind="ids", side="user", table="author"),
        "recent_tags": Feature(kind="ids", side="user", table="tag"),
        "user_vector": Feature(kind="vector", side="user", length=VECTOR_LENGTH, nullable=True),
    }


def _item_features() -> dict[str, Feature]:
    names = (*ITEM_WORDS, "music_type", "duration_bucket")
    return {
        "video_id": Feature(kind="id", side="item", table="video"),
        "author_id": Feature(kind="id", side="item", table="author", nullable=True),
        "music_id": Feature(kind="id", side="item", table="music", nullable=True),
        "tag": Feature(kind="ids", side="item", table="tag", nullable=True),
        **{name: Feature(kind="id", side="item", table=name, nullable=True) for name in names},
        "video_vector": Feature(kind="vector", side="item", length=VECTOR_LENGTH, nullable=True),
    }


def _context_features() -> dict[str, Feature]:
    return {
        "tab": Feature(kind="id", side="context", table="tab", column="scenario"),
        "hour": Feature(kind="id", side="context", table="hour", nullable=True),
        "weekday": Feature(kind="id", side="context", table="weekday", nullable=True),
    }


def _numbers(
    logged: dict[str, bool], *, side: Side, history: Moments, reference: Moments
) -> dict[str, Feature]:
    features: dict[str, Feature] = {}
    for name, log in logged.items():
        mean, std = (history if history.has(name) else reference).of(name)
        features[name] = Feature(
            kind="number", side=side, log=log, mean=mean, std=std, nullable=True
        )
    return features


def _tables(users: Entities, *, items: Entities) -> dict[str, TableSpec]:
    tags = len(items.table["tag"].combine_chunks().flatten().unique())
    columns = [(users.table, name) for name in (*USER_WORDS, *USER_CODES)] + [
        (items.table, name) for name in (*ITEM_WORDS, "music_type", "duration_bucket")
    ]
    codes = {name: _num_distinct(table, name) for table, name in columns}
    codes.update(tab=len(SCENARIOS), hour=24, weekday=7)
    return {
        "user": _key_table(len(users)),
        "video": _key_table(len(items)),
        "author": _key_table(_num_distinct(items.table, "author_id")),
        "music": _key_table(_num_distinct(items.table, "music_id")),
        "tag": TableSpec(rows=_rows(tags * CODE_SPREAD), dim=16),
        **{name: TableSpec(rows=_rows(size * CODE_SPREAD), dim=8) for name, size in codes.items()},
    }


def _num_distinct(table: pa.Table, name: str) -> int:
    return len(table[name].drop_null().unique())


def _key_table(num_keys: int) -> TableSpec:
    return TableSpec(rows=_rows(num_keys * KEY_SPREAD), dim=16)


def _rows(wanted: int) -> int:
    """Return the power of two not below ``wanted``, from 256 to ``MAX_ROWS``."""
    return min(max(256, 1 << max(wanted - 1, 0).bit_length()), MAX_ROWS)
