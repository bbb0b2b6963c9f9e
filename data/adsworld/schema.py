"""The schema of an ads world: its features, tables and tasks."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from data.adsworld.columns import NUMBERS
from data.adsworld.history import HistoryConfig
from data.adsworld.items import NUM_TAGS, VECTOR_LENGTH
from data.adsworld.scenarios import DOMAINS, SCENARIOS
from data.adsworld.users import NUM_CITIES, NUM_DEVICES, NUM_GENDERS
from data.adsworld.world import WorldConfig, num_keys
from lfm4ads.data.schema import Feature, Schema, Side, TableSpec, Task

_DIM = 16
_MAX_ROWS = 2**22

Moments = dict[str, tuple[float, float]]
"""Mean and standard deviation of every number feature, after the log where it has one."""


class MomentSums:
    """Sums over days from which the numbers' means and deviations follow."""

    def __init__(self) -> None:
        self._sums = {name: np.zeros(3) for name in NUMBERS}

    def add(self, table: pa.Table) -> None:
        """Take in one day."""
        for name, log in NUMBERS.items():
            values = table[name].drop_null().to_numpy().astype(np.float64)
            values = np.log1p(values) if log else values
            self._sums[name] += [len(values), values.sum(), (values**2).sum()]

    def moments(self) -> Moments:
        """Return mean and deviation; a number that never varies gets deviation 1."""
        result = {}
        for name, (count, total, squares) in self._sums.items():
            mean = total / max(count, 1)
            std = float(np.sqrt(max(squares / max(count, 1) - mean**2, 0.0)))
            result[name] = (round(float(mean), 6), round(std, 6) if std > 1e-6 else 1.0)
        return result


def build_schema(
    config: WorldConfig, *, days: int, moments: Moments, tasks: Sequence[str] = ()
) -> Schema:
    """Return the schema of ``days`` days of this world, with some tasks or all of them."""
    users, items = num_keys(config, days=days)
    categories = config.content.categories + config.ads.categories
    authors = config.content.authors + config.ads.authors
    counts = {
        "user": users,
        "item": items,
        "gender": NUM_GENDERS,
        "city": NUM_CITIES,
        "device": NUM_DEVICES,
        "category": categories,
        "author": authors,
        "tag": NUM_TAGS,
        "hour": 24,
    }
    return Schema(
        version=1,
        name="adsworld",
        user="user",
        item="item",
        time="time",
        domain="domain",
        scenario="scenario",
        row_id="row_id",
        domains=DOMAINS,
        scenarios=tuple(scenario.name for scenario in SCENARIOS),
        tables={name: TableSpec(rows=_rows(count), dim=_DIM) for name, count in counts.items()},
        features=_features(config.history, moments=moments),
        tasks={name: task for name, task in _tasks(config).items() if not tasks or name in tasks},
    )


def task_names(config: WorldConfig) -> tuple[str, ...]:
    """Return the tasks of this world."""
    return tuple(_tasks(config))


def _tasks(config: WorldConfig) -> dict[str, Task]:
    tasks = {
        "click": Task(label="click", domains=DOMAINS),
        "long_view": Task(label="long_view", domains=("content",)),
        "conversion": Task(
            label="conversion",
            kind="time_to_event",
            duration="conversion_delay_ms",
            domains=("ads",),
        ),
    }
    if config.feedback.likes.rate:
        tasks["like"] = Task(label="like", domains=("content",))
    return tasks


def _features(history: HistoryConfig, *, moments: Moments) -> dict[str, Feature]:
    def number(name: str, *, side: Side, nullable: bool = False) -> Feature:
        mean, std = moments[name]
        return Feature(
            kind="number", side=side, log=NUMBERS[name], mean=mean, std=std, nullable=nullable
        )

    def recent(column: str, *, table: str) -> Feature:
        return Feature(
            kind="sequence",
            side="user",
            column=column,
            table=table,
            times="recent_times",
            max_length=history.length,
        )

    return {
        "user_id": Feature(kind="id", side="user", column="user", table="user"),
        "age": number("age", side="user"),
        "gender": Feature(kind="id", side="user", table="gender"),
        "city": Feature(kind="id", side="user", table="city"),
        "device": Feature(kind="id", side="user", table="device"),
        "activity": number("activity", side="user"),
        "recent_items": recent("recent_items", table="item"),
        "recent_categories": recent("recent_categories", table="category"),
        "user_vector": Feature(kind="vector", side="user", length=VECTOR_LENGTH, nullable=True),
        "item_id": Feature(kind="id", side="item", column="item", table="item"),
        "category": Feature(kind="id", side="item", table="category"),
        "author": Feature(kind="id", side="item", table="author"),
        "tags": Feature(kind="ids", side="item", table="tag"),
        "price": number("price", side="item", nullable=True),
        "item_age_days": number("item_age_days", side="item"),
        "item_vector": Feature(kind="vector", side="item", length=VECTOR_LENGTH),
        "hour": Feature(kind="id", side="context", table="hour"),
        "seen_today": number("seen_today", side="context"),
    }


def _rows(count: int) -> int:
    """Return a power of two at least as large as the number of ids, within reason."""
    return min(_MAX_ROWS, max(16, 1 << (count - 1).bit_length()))
