"""Small datasets for tests, made in milliseconds."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = """
version: 1
name: tiny
user: user_id
item: item_id
time: time_ms
domain: domain
scenario: scenario
row_id: row_id
domains: [content, ads]
scenarios: [feed, story, search]
tables:
  user: {rows: 64, dim: 8}
  item: {rows: 128, dim: 8}
  tag: {rows: 32, dim: 8}
features:
  user_id: {kind: id, side: user, table: user}
  recent: {kind: sequence, side: user, table: item, times: recent_times, max_length: 3}
  age: {kind: number, side: user, mean: 40, std: 10}
  taste: {kind: vector, side: user, length: 4, nullable: true}
  item_id: {kind: id, side: item, table: item}
  tags: {kind: ids, side: item, table: tag, nullable: true}
  price: {kind: number, side: item, log: true, nullable: true}
  picture: {kind: vector, side: item, length: 4}
  hour: {kind: id, side: context, table: tag}
tasks:
  click: {label: click}
  long_view: {label: long_view, domains: [content]}
  conversion:
    {label: conversion, kind: time_to_event, duration: conversion_delay_ms, domains: [ads]}
"""
DAY_MS = 86_400_000


def tiny_table(rows: int, *, day: int = 0, seed: int = 0, first_row: int = 0) -> pa.Table:
    """Return a valid day of the tiny schema; one row in four has no taste."""
    rng = np.random.default_rng((seed, day))
    later = np.random.default_rng((seed, day, 1))
    domain = rng.integers(0, 2, rows)
    lists = [rng.integers(0, 50, n).tolist() for n in rng.integers(0, 6, rows)]
    tags = [
        None if rng.random() < 0.1 else rng.integers(0, 20, n).tolist()
        for n in rng.integers(0, 4, rows)
    ]
    user, item = rng.integers(0, 40, rows), rng.integers(0, 60, rows)
    click = (rng.random(rows) < 1 / (1 + np.exp(-((user % 5) - (item % 4))))).astype(np.int8)
    bought = (rng.random(rows) < 0.3) & (domain == 1)
    time_ms = np.sort(rng.integers(0, DAY_MS, rows)) + (1 + day) * DAY_MS
    return pa.table(
        {
            "row_id": pa.array(np.arange(first_row, first_row + rows), pa.int64()),
            "user_id": pa.array(user, pa.int64()),
            "item_id": pa.array(item, pa.int64()),
            "time_ms": pa.array(time_ms, pa.int64()),
            "domain": pa.array(domain, pa.int8()),
            "scenario": pa.array(np.where(domain == 0, 0, rng.integers(1, 3, rows)), pa.int8()),
            "recent": pa.array(lists, pa.list_(pa.int64())),
            "recent_times": times_before(time_ms, counts=map(len, lists), rng=later),
            "age": pa.array(rng.integers(18, 80, rows), pa.int32()),
            "taste": pa.array(
                [None if later.random() < 0.25 else later.standard_normal(4) for _ in range(rows)],
                pa.list_(pa.float32(), 4),
            ),
            "tags": pa.array(tags, pa.list_(pa.int64())),
            "price": pa.array(
                np.where(rng.random(rows) < 0.1, np.nan, rng.random(rows) * 100), from_pandas=True
            ),
            "picture": pa.FixedSizeListArray.from_arrays(
                pa.array(rng.standard_normal(rows * 4), pa.float32()), 4
            ),
            "hour": pa.array(rng.integers(0, 24, rows), pa.int8()),
            "click": pa.array(click, pa.int8()),
            "long_view": pa.array(np.where(domain == 0, click, 0), pa.int8()),
            "conversion": pa.array(bought.astype(np.int8), pa.int8()),
            "conversion_delay_ms": pa.array(
                np.where(bought, rng.integers(0, 2 * DAY_MS, rows).astype(float), np.nan),
                from_pandas=True,
            ),
        }
    )


def times_before(time_ms: Iterable[int], *, counts: Iterable[int], rng) -> pa.Array:
    """Return as many event times as told before every row, oldest first, up to a day back."""
    lists = [
        np.sort(int(time) - rng.integers(0, DAY_MS, count))
        for time, count in zip(time_ms, counts, strict=True)
    ]
    return pa.array(lists, pa.list_(pa.int64()))


def write_tiny(
    folder: Path, *, days: int = 2, rows: int = 500, row_group_rows: int = 64, schema: str = SCHEMA
) -> Path:
    """Write a dataset of the tiny schema with days 20260101, 20260102, ..., two files a day."""
    for day in range(days):
        table = tiny_table(rows, day=day, first_row=day * rows)
        target = folder / f"day={20260101 + day}"
        target.mkdir(parents=True)
        half = rows // 2
        pq.write_table(
            table.slice(0, half), target / "part-00000.parquet", row_group_size=row_group_rows
        )
        pq.write_table(
            table.slice(half), target / "part-00001.parquet", row_group_size=row_group_rows
        )
    (folder / "schema.yaml").write_text(schema)
    return folder


def with_column(table: pa.Table, name: str, values: pa.Array | list, kind=None) -> pa.Table:
    """Return the table with one column replaced."""
    column = values if isinstance(values, pa.Array) else pa.array(values, kind)
    return table.set_column(table.column_names.index(name), name, column)


def with_value(table: pa.Table, name: str, value, *, row: int, kind=None) -> pa.Table:
    """Return the table with one value replaced, and the column's type where ``kind`` is given."""
    values = table[name].to_pylist()
    values[row] = value
    return with_column(table, name, values, kind or table.schema.field(name).type)


def write_table(
    folder: Path,
    table: pa.Table,
    *,
    day: int = 20260101,
    part: int = 0,
    row_group_rows: int = 64,
    schema: str = SCHEMA,
    **options,
) -> Path:
    """Write one file of a day, and the schema; ``options`` are those of ``pq.write_table``."""
    path = folder / f"day={day}" / f"part-{part:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_rows, **options)
    (folder / "schema.yaml").write_text(schema)
    return path
