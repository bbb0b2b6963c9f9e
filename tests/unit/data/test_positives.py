"""Positives of users over days, against a count row by row."""

from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from lfm4ads.data import positives
from lfm4ads.data.index import open_dataset
from lfm4ads.data.positives import count_positives
from tests.batches import one_rank
from tests.worlds import SCHEMA, write_tiny

DAYS = (20260101, 20260102)
TASKS = ("click", "long_view", "conversion")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "data"
    return open_dataset(write_tiny(folder, days=3, rows=400), one_rank())


def counted(dataset, days):
    """Count rows and positives by (user, task) one row at a time."""
    tables = [
        pq.read_table(path) for day in days for path in sorted(dataset.path.glob(f"day={day}/*"))
    ]
    rows = [row for table in tables for row in table.to_pylist()]
    closed = max(row["time_ms"] for row in rows)
    num_rows, num_positives = Counter(), Counter()
    for row in rows:
        for task in TASKS:
            # long_view is a label of domain content, conversion one of ads.
            if task != "click" and row["domain"] != TASKS[1:].index(task):
                continue
            happened = row[task] == 1
            if task == "conversion":
                delay = row["conversion_delay_ms"]
                happened = happened and row["time_ms"] + delay <= closed
            num_rows[row["user_id"], task] += 1
            num_positives[row["user_id"], task] += happened
    return num_rows, num_positives


@pytest.mark.parametrize("days", [DAYS, DAYS[:1]])
@pytest.mark.parametrize("merge_rows", [1, 2**18])
def test_counts_are_those_of_the_rows(dataset, days, merge_rows, monkeypatch):
    monkeypatch.setattr(positives, "_MERGE_ROWS", merge_rows)
    found = count_positives(dataset, days=days)
    num_rows, num_positives = counted(dataset, days)
    assert found.tasks == TASKS
    assert found.user_U.tolist() == sorted({user for user, _ in num_rows})
    for task in TASKS:
        rows, counts = found.of(task)
        assert rows.tolist() == [num_rows[user, task] for user in found.user_U.tolist()]
        assert counts.tolist() == [num_positives[user, task] for user in found.user_U.tolist()]
    assert 0 < found.of("conversion")[1].sum() < found.of("conversion")[0].sum()


def test_what_happened_after_the_last_day_was_closed_does_not_count(dataset):
    """A conversion of the first day that came on the second is known only with the second."""
    one, two = (
        count_positives(dataset, days=days).of("conversion")[1] for days in (DAYS[:1], DAYS)
    )
    late = (
        np.sum(
            [
                row["conversion"]
                for row in pq.read_table(dataset.path / f"day={DAYS[0]}").to_pylist()
                if row["domain"] == 1
            ]
        )
        - one.sum()
    )
    assert late > 0
    assert two.sum() > one.sum()


def test_keys_of_strings_and_large_keys_are_those_of_training(tmp_path):
    dataset = open_dataset(write_tiny(tmp_path, days=1, rows=50, schema=SCHEMA), one_rank())
    path = next(dataset.path.glob("day=*/part-00000.parquet"))
    table = pq.read_table(path)
    large = np.full(table.num_rows, 2**62 + 1)
    place = table.column_names.index("user_id")
    pq.write_table(table.set_column(place, "user_id", [large]), path)
    found = count_positives(open_dataset(tmp_path, one_rank()), days=DAYS[:1])
    assert found.user_U[-1] == 2**62 + 1
