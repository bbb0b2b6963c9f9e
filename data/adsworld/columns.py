"""A day's rows as Arrow tables: the columns of the contract, and the oracle's.

Dimension key: N rows, A users seen, C clicks in the history, F flat list values.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.adsworld.exposure import DAY_MILLISECONDS
from data.adsworld.hashing import Floats, Ints
from data.adsworld.history import History
from data.adsworld.items import VECTOR_LENGTH
from data.adsworld.world import Day

NUMBERS = {"age": False, "activity": True, "price": True, "item_age_days": True, "seen_today": True}
"""Number features, and whether they are read in logs."""
DICTIONARY = (
    "domain",
    "scenario",
    "user",
    "age",
    "gender",
    "city",
    "device",
    "activity",
    "item",
    "category",
    "author",
    "price",
    "item_age_days",
    "hour",
    "seen_today",
    "click",
    "long_view",
    "conversion",
    "like",
    "recent_categories.list.element",
    "tags.list.element",
)
"""Columns with few values in a row group; keys in lists, times and vectors do not repay one."""


def day_table(day: Day, *, number: int, history: History, taste: Floats) -> pa.Table:
    """Return the rows of day ``number`` (counted from 0) as the schema describes them.

    ``taste`` (A, V) is what an external model knows of the day's users, NaN where it is nothing.
    """
    shown, feedback = day.shown, day.feedback
    users, items, user, item = shown.users, shown.items, shown.user, shown.item
    starts_A, lengths_A = history.runs(users.index)
    recent = {"starts": starts_A[user], "lengths": lengths_A[user]}
    tags = _lists(items.tags.reshape(-1), starts=4 * item, lengths=items.num_tags[item])
    price = items.price[item]
    content, ads = ~shown.slots.is_ads, shown.slots.is_ads
    columns = {
        "row_id": _row_ids(day, number=number),
        "time": day.start + shown.slots.time,
        "domain": ads.astype(np.int8),
        "scenario": shown.slots.scenario.astype(np.int8),
        "user": users.key[user],
        "age": users.age.astype(np.int16)[user],
        "gender": users.gender.astype(np.int8)[user],
        "city": users.city.astype(np.int16)[user],
        "device": users.device.astype(np.int16)[user],
        "activity": users.activity[user],
        "recent_items": _lists(history.item, **recent),
        "recent_categories": _lists(history.category, **recent),
        "recent_times": _lists(history.time, **recent),
        "user_vector": _vectors(taste[user]),
        "item": items.key[item],
        "category": items.category.astype(np.int16)[item],
        "author": items.author.astype(np.int32)[item],
        "tags": tags,
        "price": pa.array(price, mask=np.isnan(price)),
        "item_age_days": items.age_days.astype(np.int32)[item],
        "item_vector": _vectors(items.vector[item]),
        "hour": (shown.slots.time // (DAY_MILLISECONDS // 24)).astype(np.int8),
        "seen_today": shown.seen.astype(np.int32),
        "click": feedback.click.astype(np.int8),
        "long_view": pa.array(feedback.second.astype(np.int8), mask=ads),
        "conversion": pa.array(feedback.second.astype(np.int8), mask=content),
        "conversion_delay_ms": pa.array(feedback.delay, mask=content | ~feedback.second),
    }
    if feedback.like is not None:
        columns["like"] = pa.array(feedback.like.astype(np.int8), mask=ads)
    return pa.table(columns)


def oracle_table(day: Day, *, number: int) -> pa.Table:
    """Return the true probability of every label, null where a row has no such label."""
    ads = day.shown.slots.is_ads
    second = day.feedback.second_probability
    columns = {
        "row_id": _row_ids(day, number=number),
        "probability_click": day.feedback.click_probability,
        "probability_long_view": pa.array(second, mask=ads),
        "probability_conversion": pa.array(second, mask=~ads),
    }
    if day.feedback.like_probability is not None:
        columns["probability_like"] = pa.array(day.feedback.like_probability, mask=ads)
    return pa.table(columns)


def _row_ids(day: Day, *, number: int) -> Ints:
    return number * 2**32 + np.arange(len(day.shown.user))


def _vectors(values_NV: Floats) -> pa.FixedSizeListArray:
    """Return a column of vectors, null where they are NaN."""
    none = np.isnan(values_NV[:, 0])
    return pa.FixedSizeListArray.from_arrays(
        pa.array(values_NV.reshape(-1)),
        VECTOR_LENGTH,
        mask=pa.array(none) if none.any() else None,
    )


def _lists(values_C: npt.NDArray[np.int64], *, starts: Ints, lengths: Ints) -> pa.ListArray:
    """Return a list column whose row n is ``values[starts[n] : starts[n] + lengths[n]]``."""
    offsets = np.zeros(len(starts) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    place_F = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values_C[place_F]))
