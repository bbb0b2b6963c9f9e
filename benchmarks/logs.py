"""Logs of any shape with planted labels, which the speed benchmarks read.

Ids are Zipf-like. A label's odds follow some of the ids and numbers, so that a model can learn it.

Dimension key: N rows.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lfm4ads.data.dataset import DatasetWriter
from lfm4ads.data.schema import Feature, Schema, Side, TableSpec, Task

FIRST_DAY = 20260101
_EPOCH_MS = 1_767_225_600_000
_DAY_MS = 86_400_000


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large the logs are."""

    rows: int
    """Of a day."""
    days: int = 1
    ids: int = 26
    lists: int = 0
    """Features with a list of ids, 0 to 9 of them a row."""
    sequences: int = 0
    """Features with the last 50 ids, each with its time."""
    numbers: int = 13
    users: int = 10_000
    """Of a day; there are a fifth as many items."""
    table_rows: int = 100_000
    dim: int = 16

    @property
    def names(self) -> dict[str, list[str]]:
        """Features by kind."""
        counts = {"id": self.ids, "ids": self.lists, "sequence": self.sequences}
        counts["number"] = self.numbers
        return {kind: [f"{kind}_{place}" for place in range(n)] for kind, n in counts.items()}


def schema_of(shape: Shape) -> Schema:
    """Return the schema: every feature has a table of its own; sides take turns."""
    sides: tuple[Side, ...] = ("user", "item")
    features: dict[str, Feature] = {}
    tables: dict[str, TableSpec] = {}
    for kind, names in shape.names.items():
        for place, name in enumerate(names):
            side = sides[place % 2]
            if kind == "number":
                features[name] = Feature(kind="number", side=side)
                continue
            tables[name] = TableSpec(rows=shape.table_rows, dim=shape.dim)
            match kind:
                case "sequence":
                    features[name] = Feature(
                        kind="sequence", side=side, table=name, times=f"{name}_time"
                    )
                case "ids":
                    features[name] = Feature(kind="ids", side=side, table=name)
                case _:
                    features[name] = Feature(kind="id", side=side, table=name)
    return Schema(
        version=1,
        name="logs",
        user="user",
        item="item",
        time="time",
        domain="domain",
        scenario="scenario",
        domains=("ads",),
        scenarios=("feed",),
        tables=tables,
        features=features,
        tasks={"click": Task(label="click"), "like": Task(label="like")},
        row_id="row_id",
    )


def write_logs(output: Path, shape: Shape) -> list[int]:
    """Write a dataset; return its days."""
    rng = np.random.default_rng(7)
    days = [FIRST_DAY + place for place in range(shape.days)]
    with DatasetWriter(output) as writer:
        for place, day in enumerate(days):
            writer.write_day(day, _day(shape, rng, place=place))
        writer.finish(schema_of(shape), config=shape)
    return days


def _day(shape: Shape, rng: np.random.Generator, *, place: int) -> pa.Table:
    rows, names = shape.rows, shape.names
    first_ms = _EPOCH_MS + place * _DAY_MS
    times = first_ms + np.sort(rng.integers(0, _DAY_MS, rows))
    zeros = np.zeros(rows, dtype=np.int8)
    columns: dict[str, pa.Array | npt.NDArray[np.generic]] = {
        "user": rng.integers(0, shape.users, rows),
        "item": rng.integers(0, shape.users // 5, rows),
        "time": times,
        "domain": zeros,
        "scenario": zeros,
        "row_id": place * rows + np.arange(rows),
    }
    logit = np.full(rows, -1.0)
    for name in names["id"]:
        ids = _ids(shape, rng, rows)
        columns[name] = ids
        logit += 0.4 * np.sin(ids.astype(np.float64))
    for name in names["ids"]:
        columns[name] = _lists(_ids(shape, rng, 5 * rows), rng.integers(0, 10, rows))
    for name in names["sequence"]:
        counts = np.full(rows, 50)
        ages = np.sort(rng.integers(0, _DAY_MS, (rows, 50)), axis=1)[:, ::-1]
        columns[name] = _lists(_ids(shape, rng, 50 * rows), counts)
        columns[f"{name}_time"] = _lists((times[:, None] - ages).reshape(-1), counts)
    for name in names["number"]:
        numbers = rng.standard_normal(rows, dtype=np.float32)
        columns[name] = numbers
        logit += 0.1 * numbers
    chance = rng.random((2, rows))
    columns["click"] = (chance[0] < 1 / (1 + np.exp(-logit))).astype(np.int8)
    columns["like"] = (chance[1] < 1 / (1 + np.exp(2 - logit))).astype(np.int8)
    return pa.table(columns)


def _ids(shape: Shape, rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
    return (shape.table_rows * rng.random(count) ** 3).astype(np.int64)


def _lists(values: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> pa.Array:
    """Return lists of so many values each, beginning again where values run out."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.resize(values, offsets[-1])))
