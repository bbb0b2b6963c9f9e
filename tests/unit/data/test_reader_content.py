"""What reaches a batch is what plain Python makes of the files, whatever the order."""

import numpy as np
import pytest
import torch

from lfm4ads.data.batch import Batch
from lfm4ads.data.index import open_dataset
from tests.unit.data.expected import expected_row, records_of
from tests.unit.data.states import one_rank
from tests.unit.data.test_reader import DAY, ROWS, days_of, flat, reader_of, rows_of
from tests.worlds import tiny_table, with_column, write_table, write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return open_dataset(write_tiny(tmp_path_factory.mktemp("content"), rows=ROWS), one_rank())


def lists_of(batch, name):
    column = batch.sparse[name]
    return [part.tolist() for part in torch.split(column.values(), column.lengths().tolist())]


def assert_batch(batch, records, schema, *, horizon=None):
    """Compare every row with what plain Python makes of the record of its row id."""
    expected = {row: expected_row(records[row], schema, horizon=horizon) for row in rows_of(batch)}
    rows = [expected[row] for row in rows_of(batch)]
    padding = len(batch) - len(rows)
    assert batch.valid.tolist() == [True] * len(rows) + [False] * padding
    assert batch.sparse.keys() == schema.select(sparse=True)
    for name in schema.select(sparse=True):
        assert lists_of(batch, name) == [row["sparse"][name] for row in rows] + [[]] * padding
    assert batch.ages.keys() == {name for name, one in schema.features.items() if one.times}
    for name, ages in batch.ages.items():
        wanted = np.array([age for row in rows for age in row["ages"][name]], dtype=np.float32)
        assert ages.dtype == torch.float32
        assert len(ages) == len(batch.sparse[name].values()), "padding has no events"
        np.testing.assert_allclose(ages, wanted, rtol=1e-6)
    for name in ("numbers", "vectors", "labels", "masks"):
        values = getattr(batch, name)
        assert values.dtype == torch.float32
        wanted = np.array([row[name] for row in rows], dtype=np.float32)
        np.testing.assert_allclose(values[: len(rows)], wanted, rtol=2e-6, atol=1e-6)
        assert not values[len(rows) :].any()
    for name in ("user", "item", "time", "domain", "scenario"):
        values = getattr(batch, name)
        assert values.dtype == torch.int64
        assert values.tolist() == [row[name] for row in rows] + [0] * padding
    assert batch.row_id.dtype == torch.int64


@pytest.mark.parametrize("final_labels", [True, False])
@pytest.mark.parametrize("world", [1, 3])
def test_batches_are_what_plain_python_makes_of_the_files(tiny, world, final_labels):
    records = {one["row_id"]: one for one in records_of(tiny, DAY)}
    horizon = None if final_labels else tiny.end_of_day(DAY)
    seen = []
    for batches in days_of(tiny, world, final_labels=final_labels):
        for batch in batches:
            assert isinstance(batch, Batch)
            assert batch.day == DAY
            assert batch.reps == batch.present == {}
            assert_batch(batch, records, tiny.schema, horizon=horizon)
            seen += rows_of(batch)
    assert sorted(seen) == list(range(ROWS))


def test_lists_that_hold_as_many_ids_as_there_are_rows(tmp_path):
    """Each row keeps its own list through the shuffle."""
    tags = [[index, index + 1] if index % 2 else [] for index in range(80)]
    write_table(tmp_path, with_column(tiny_table(80), "tags", tags), row_group_rows=20)
    dataset = open_dataset(tmp_path, one_rank())
    records = {one["row_id"]: one for one in records_of(dataset, DAY)}
    for batch in days_of(dataset, 1, window_rows=20, batch_size=80)[0]:
        assert_batch(batch, records, dataset.schema)


def test_training_sees_only_what_had_happened_when_the_day_closed(tiny):
    def conversions(**options):
        batches = flat(days_of(tiny, 2, **options))
        labels = {}
        for batch in batches:
            labels |= dict(zip(rows_of(batch), batch.labels[batch.valid, 2].tolist(), strict=True))
        return labels

    final, early = conversions(), conversions(final_labels=False)
    close = max(one["time_ms"] for one in records_of(tiny, DAY))
    for one in records_of(tiny, DAY):
        happened = one["conversion"] == 1
        by_then = happened and one["time_ms"] + one["conversion_delay_ms"] <= close
        assert final[one["row_id"]] == happened
        assert early[one["row_id"]] == by_then
    assert 0 < sum(early.values()) < sum(final.values())


def test_a_waiting_task_sees_what_had_happened_so_many_days_later_and_no_more(tmp_path):
    """Three days: the wait of the first day ends with the second, or where the last log ends."""
    dataset = open_dataset(write_tiny(tmp_path, days=3, rows=ROWS), one_rank())
    column = list(dataset.schema.tasks).index("conversion")
    sums = {}
    for wait in (0, 1, 2, 3):
        reader = reader_of(
            dataset, final_labels=False, wait_days={"conversion": wait} if wait else None
        )
        found = {}
        for batch in reader.day(DAY):
            found |= dict(
                zip(rows_of(batch), batch.labels[batch.valid, column].tolist(), strict=True)
            )
        day_ends = dataset.end_of_day(DAY) + wait * 86_400_000
        closed = dataset.end_of_day(min(DAY + wait, DAY + 2))
        for one in records_of(dataset, DAY):
            happened = one["time_ms"] + (one["conversion_delay_ms"] or 0)
            known = one["conversion"] == 1 and happened <= min(day_ends, closed)
            assert found[one["row_id"]] == known, (wait, one["row_id"])
        sums[wait] = sum(found.values())
    # Delays are up to two days: each day of waiting brings conversions, a third has none to bring.
    assert 0 < sums[0] < sums[1] < sums[2]
    assert sums[2] == sums[3]


def test_other_tasks_do_not_wait_with_it(tiny):
    plain, waiting = (
        flat(days_of(tiny, 1, final_labels=False, wait_days=wait))
        for wait in (None, {"conversion": 1})
    )
    column = list(tiny.schema.tasks).index("conversion")
    moved = 0
    for one, other in zip(plain, waiting, strict=True):
        assert torch.equal(one.masks, other.masks)
        differ = (one.labels != other.labels).any(dim=0)
        moved += int(differ[column])
        differ[column] = False
        assert not differ.any()
    assert moved > 0


def test_large_ids_reach_the_batch_exactly(tmp_path):
    ids = [2**53, 2**53 + 1, 2**63 - 1, 0] * 5
    table = tiny_table(20)
    for name in ("user_id", "item_id", "row_id"):
        table = with_column(table, name, ids, "int64")
    write_table(tmp_path, table)
    batch = days_of(open_dataset(tmp_path, one_rank()), 1, shuffle=False, lanes=1)[0][0]
    for values in (batch.user, batch.item, batch.row_id):
        assert values[batch.valid].tolist() == ids
