"""A planted world of two conflicting tasks, as a dataset folder that stages can read.

Every user has a taste for task a and another, independent one for task b, and so has every item.
A third of the users likes much more by task a (a bias of +2, and -2 on task b), a third as much by
both, a third more by task b. One table shared by both tasks has to hold both tastes.

Dimension key: U users, I items, N rows, T tasks, K dimensions of a taste.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lfm4ads.data.hashing import hash_ids

TASKS = ("a", "b")
GROUPS = ("a", "comparable", "b")
"""Who dominates: the order of the thirds of the users."""
DAYS = {20260101: 36_000, 20260102: 4_000, 20260103: 12_000}
"""Rows of the day to train on, of the one that chooses the number of passes, and of the test."""
DAY_MS = 86_400_000
_BIAS = {"a": (2.0, -2.0), "comparable": (0.0, 0.0), "b": (-2.0, 2.0)}
_SCHEMA = """
version: 1
name: two_tastes
user: user_id
item: item_id
time: time_ms
domain: domain
scenario: scenario
row_id: row_id
domains: [world]
scenarios: [feed]
tables:
  user: {{rows: {rows}, dim: {dim}}}
  item: {{rows: {rows}, dim: {dim}}}
features:
  user_id: {{kind: id, side: user, table: user}}
  item_id: {{kind: id, side: item, table: item}}
tasks:
  a: {{label: a}}
  b: {{label: b}}
"""


@dataclass(frozen=True)
class TwoTastes:
    """What was planted."""

    data: Path
    """The dataset folder."""
    group: dict[int, str]
    """User key -> one of GROUPS."""
    chance_NT: dict[int, np.ndarray]
    """Day -> the true probability of each label of its rows, in the order of the files."""


def make_two_tastes(
    folder: Path,
    seed: int = 0,
    *,
    users: int = 200,
    items: int = 200,
    taste_dim: int = 3,
    table_dim: int = 4,
    days: Mapping[int, int] = DAYS,
    table_rows: int = 1024,
) -> TwoTastes:
    """Write the dataset and return what was planted.

    Keys are chosen so that no two share a row of a table. Pairs are drawn with replacement, labels
    independently of one another given the truth.
    """
    rng = np.random.default_rng(seed)
    user_U = _keys(users, table="user", rows=table_rows)
    item_I = _keys(items, table="item", rows=table_rows)
    group_U = [GROUPS[place * len(GROUPS) // users] for place in range(users)]
    bias_UT = np.array([_BIAS[group] for group in group_U])
    taste_TUK = rng.standard_normal((len(TASKS), users, taste_dim))
    taste_TIK = rng.standard_normal((len(TASKS), items, taste_dim))
    logit_UIT = np.einsum("tuk,tik->uit", taste_TUK, taste_TIK) + bias_UT[:, None]
    chance_NT: dict[int, np.ndarray] = {}
    first_row = 0
    for place, (day, rows) in enumerate(days.items()):
        user_N, item_N = rng.integers(0, users, rows), rng.integers(0, items, rows)
        chance_NT[day] = 1 / (1 + np.exp(-logit_UIT[user_N, item_N]))
        label_NT = (rng.random((rows, len(TASKS))) < chance_NT[day]).astype(np.int8)
        time_N = np.sort(rng.integers(0, DAY_MS, rows)) + (1 + place) * DAY_MS
        columns = {
            "row_id": np.arange(first_row, first_row + rows),
            "user_id": user_U[user_N],
            "item_id": item_I[item_N],
            "time_ms": time_N,
            "domain": np.zeros(rows, np.int8),
            "scenario": np.zeros(rows, np.int8),
            **{task: label_NT[:, column] for column, task in enumerate(TASKS)},
        }
        path = folder / f"day={day}" / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table(columns), path, row_group_size=8192)
        first_row += rows
    (folder / "schema.yaml").write_text(_SCHEMA.format(rows=table_rows, dim=table_dim))
    group = dict(zip(user_U.tolist(), group_U, strict=True))
    return TwoTastes(data=folder, group=group, chance_NT=chance_NT)


def _keys(count: int, *, table: str, rows: int) -> np.ndarray:
    """Return keys whose rows of the table all differ."""
    keys = np.arange(1, 40 * rows)
    _, first = np.unique(hash_ids(keys, table=table, rows=rows), return_index=True)
    chosen = np.sort(keys[first])[:count]
    assert len(chosen) == count, f"{rows} rows cannot tell {count} keys apart"
    return chosen
