"""Decoded rows are what plain Python makes of the file, and stay whole when cut and mixed."""

import numpy as np
import pyarrow as pa
import pytest

from lfm4ads.data.index import open_dataset, select_rows
from lfm4ads.data.ragged import NO_ID, Ragged
from lfm4ads.data.rows import Rows, day_keys, decode, join
from tests.unit.data.expected import expected_row, records_of
from tests.unit.data.states import one_rank
from tests.worlds import SCHEMA, tiny_table, with_column, with_value, write_table, write_tiny

DAY = 20260101


def decoded(dataset, *, day=DAY, horizons=None):
    return join([decode(dataset, group, horizons=horizons) for group in dataset.groups(day)])


def bags(column):
    return [part.tolist() for part in np.split(column.values, np.cumsum(column.counts)[:-1])]


def assert_rows(rows, expected):
    """Compare with what plain Python made, a dict per row."""
    assert len(rows) == len(expected)
    ids = [name for name in expected[0]["sparse"] if name not in rows.lists]
    assert rows.ids.dtype == np.int64
    assert rows.ids.tolist() == [
        [(one["sparse"][name] or [NO_ID])[0] for name in ids] for one in expected
    ]
    for name, column in rows.lists.items():
        assert column.values.dtype == np.int64
        assert column.counts.dtype == np.int32
        assert bags(column) == [one["sparse"][name] for one in expected]
        assert (column.ages is not None) == (name in expected[0]["ages"])
        if column.ages is not None:
            assert column.ages.dtype == np.float32
            assert len(column.ages) == len(column.values)
            wanted = [age for one in expected for age in one["ages"][name]]
            np.testing.assert_allclose(column.ages, wanted, rtol=1e-6)
    for name, array in rows.arrays.items():
        wanted = np.array([one[name] for one in expected])
        if np.issubdtype(array.dtype, np.integer):
            np.testing.assert_array_equal(array, wanted)
        else:
            assert array.dtype == np.float32
            np.testing.assert_allclose(array, wanted, rtol=2e-6, atol=1e-6)


def test_every_column_is_what_plain_python_makes_of_it(tmp_path):
    dataset = open_dataset(write_tiny(tmp_path, rows=301), one_rank())
    for day in dataset.days:
        records = records_of(dataset, day)
        assert {record["price"] is None for record in records} == {True, False}
        assert {record["tags"] is None for record in records} == {True, False}
        assert max(len(record["recent"]) for record in records) > 3, "some lists are cut"
        expected = [expected_row(record, dataset.schema) for record in records]
        assert_rows(decoded(dataset, day=day), expected)


def test_negative_numbers_and_another_standard(tmp_path):
    prices = [(-1) ** index * index * 100.0 for index in range(50)]
    schema = SCHEMA.replace("log: true, nullable: true", "log: true, mean: -2, std: 0.5")
    write_table(tmp_path, with_column(tiny_table(50), "price", prices), schema=schema)
    dataset = open_dataset(tmp_path, one_rank())
    records = records_of(dataset, DAY)
    rows = decoded(dataset)
    assert_rows(rows, [expected_row(record, dataset.schema) for record in records])
    assert rows.arrays["numbers"][0, 1] == 4.0, "sign(0) * log(1 + 0) is 0, 2 above the mean"


def test_a_null_number_is_missing(tmp_path):
    schema = SCHEMA.replace("log: true, nullable: true", "mean: 50, nullable: true")
    write_table(tmp_path, with_value(tiny_table(9), "price", None, row=4), schema=schema)
    numbers = decoded(open_dataset(tmp_path, one_rank())).arrays["numbers"]
    assert np.flatnonzero(np.isnan(numbers[:, 1])).tolist() == [3, 4]
    assert not np.isnan(numbers[:, 0]).any()


LABELS = """
  click: {label: click, scenarios: [0, 2]}
  long_view: {label: long_view, domains: [content], scenarios: [0]}
  watched: {label: watched, kind: real}
"""


def test_masks_of_domains_scenarios_and_nulls(tmp_path):
    table = tiny_table(90)
    clicks = [None if index % 4 == 0 else value for index, value in enumerate(table["click"])]
    watched = [None if index % 3 == 0 else index / 7 - 5 for index in range(90)]
    table = with_column(table, "click", pa.array([value and value.as_py() for value in clicks]))
    table = table.append_column("watched", pa.array(watched))
    schema = SCHEMA[: SCHEMA.index("tasks:")] + "tasks:" + LABELS
    write_table(tmp_path, table, schema=schema)
    dataset = open_dataset(tmp_path, one_rank())
    expected = [expected_row(record, dataset.schema) for record in records_of(dataset, DAY)]
    rows = decoded(dataset)
    assert_rows(rows, expected)
    masks, labels = rows.arrays["masks"], rows.arrays["labels"]
    assert set(masks.sum(axis=0)) & {0.0, 90.0} == set(), "every task has rows with and without"
    assert labels[masks == 0].tolist() == [0.0] * int((masks == 0).sum())
    scenario = rows.arrays["scenario"]
    assert set(scenario[masks[:, 0] == 1]) == {0, 2}
    assert set(scenario) == {0, 1, 2}


def test_an_event_after_the_log_was_closed_is_no_label_yet(tmp_path):
    """Also a millisecond after: a float32 would round so large a delay."""
    table = tiny_table(60)
    times = np.array(table["time_ms"])
    close = int(times[-1])
    happened = np.arange(60) % 2 == 0
    delays = close - times + np.arange(60) % 3 - 1
    delays[0] = close - times[0] + 1
    assert delays[0] > 2**24
    table = with_column(table, "domain", np.ones(60, np.int8).tolist(), pa.int8())
    table = with_column(table, "conversion", happened.astype(np.int8).tolist(), pa.int8())
    table = with_column(
        table,
        "conversion_delay_ms",
        [int(d) if yes else None for d, yes in zip(delays, happened, strict=True)],
        pa.int64(),
    )
    write_table(tmp_path, table)
    dataset = open_dataset(tmp_path, one_rank())
    assert dataset.end_of_day(DAY) == close
    by_then = happened & (times + delays <= close)
    assert 0 < by_then.sum() < happened.sum()
    final, early = decoded(dataset), decoded(dataset, horizons={"conversion": close})
    assert final.arrays["labels"][:, 2].tolist() == happened.tolist()
    assert early.arrays["labels"][:, 2].tolist() == by_then.tolist()
    np.testing.assert_array_equal(early.arrays["masks"], final.arrays["masks"])
    np.testing.assert_array_equal(early.arrays["labels"][:, :2], final.arrays["labels"][:, :2])


def test_an_event_of_unknown_delay_has_not_happened_yet(tmp_path):
    table = with_column(tiny_table(4), "domain", [1] * 4, pa.int8())
    table = with_column(table, "conversion", [1] * 4, pa.int8())
    write_table(tmp_path, with_column(table, "conversion_delay_ms", [None] * 4, pa.int64()))
    dataset = open_dataset(tmp_path, one_rank())
    assert (
        decoded(dataset, horizons={"conversion": 2**62}).arrays["labels"][:, 2].tolist()
        == [0.0] * 4
    )
    assert decoded(dataset).arrays["labels"][:, 2].tolist() == [1.0] * 4


def test_only_rows_of_selected_domains(tmp_path):
    dataset = open_dataset(write_tiny(tmp_path, days=1), one_rank())
    for names, wanted in ((["ads"], {1}), (["content"], {0}), (["ads", "content"], {0, 1})):
        selected = select_rows(dataset, domains=names, days=[DAY], ranks=one_rank())
        expected = [
            expected_row(record, dataset.schema)
            for record in records_of(dataset, DAY)
            if record["domain"] in wanted
        ]
        assert_rows(decoded(selected), expected)


@pytest.mark.parametrize("value", [None, 2, -1])
def test_a_bad_domain_is_refused_also_when_others_are_selected(tmp_path, value):
    write_table(tmp_path / "good", tiny_table(100))
    write_table(tmp_path / "bad", with_value(tiny_table(100), "domain", value, row=70))
    good, bad = (open_dataset(tmp_path / name, one_rank()) for name in ("good", "bad"))
    with pytest.raises(ValueError, match="row group 1: column domain has"):
        select_rows(bad, domains=["ads"], days=[DAY], ranks=one_rank())
    selected = select_rows(good, domains=["ads"], days=[DAY], ranks=one_rank())
    write_table(tmp_path / "good", with_value(tiny_table(100), "domain", value, row=70))
    with pytest.raises(ValueError, match="row group 1: column domain has"):
        decoded(selected)


def test_a_dataset_without_row_ids(tmp_path):
    schema = SCHEMA.replace("row_id: row_id\n", "")
    write_table(tmp_path, tiny_table(5).drop_columns(["row_id"]), schema=schema)
    dataset = open_dataset(tmp_path, one_rank())
    assert decoded(dataset).arrays["row_id"].tolist() == [-1] * 5


COUNTS = {
    "random": np.random.default_rng(0).integers(0, 5, 40),
    "as many ids as rows": np.array([0, 2, 1, 3, 0, 0, 1, 1, 2, 0]),
    "one each": np.ones(12, int),
    "none": np.zeros(6, int),
}


def made(counts):
    """Return rows with lists of the given lengths, and the lists."""
    counts = np.asarray(counts)
    values = np.arange(counts.sum()) * 10
    ages = (values / 7).astype(np.float32)
    users = np.arange(len(counts)) + 100
    rows = Rows(users[:, None] * [1, 2], {"tags": Ragged(values, counts, ages)}, {"user": users})
    return rows, bags(rows.lists["tags"])


def assert_lists(rows, lists, users):
    assert bags(rows.lists["tags"]) == lists
    ages = (rows.lists["tags"].values / 7).astype(np.float32)
    np.testing.assert_array_equal(rows.lists["tags"].ages, ages)
    assert len(rows.lists["tags"].values) == rows.lists["tags"].counts.sum()
    assert rows.arrays["user"].tolist() == users
    assert rows.ids.tolist() == [[user, 2 * user] for user in users]


@pytest.mark.parametrize("name", COUNTS)
def test_take_slice_and_join(name):
    rows, lists = made(COUNTS[name])
    number = len(lists)
    rng = np.random.default_rng(1)
    for order in (rng.permutation(number), np.arange(number)[::-1], np.array([1, 1, 0])):
        assert_lists(rows.take(order), [lists[i] for i in order], (order + 100).tolist())
    for start, stop in ((0, number), (1, number - 1), (2, 2), (0, 1)):
        users = list(range(100 + start, 100 + stop))
        if start < stop:
            assert_lists(rows.slice(start, stop), lists[start:stop], users)
        assert len(rows.slice(start, stop)) == stop - start
    pieces = [rows.slice(2, number), rows.slice(0, 2), rows.slice(1, 1), rows.slice(1, 4)]
    kept = [*range(2, number), 0, 1, 1, 2, 3]
    joined = join(pieces)
    assert_lists(joined, [lists[i] for i in kept], [100 + i for i in kept])
    order = rng.permutation(len(kept))
    expected = [lists[kept[i]] for i in order]
    assert_lists(joined.take(order), expected, [100 + kept[i] for i in order])


def test_a_taken_slice_and_a_sliced_take_agree():
    rows, lists = made(COUNTS["random"])
    order = np.random.default_rng(2).permutation(20)
    assert_lists(
        rows.slice(10, 30).take(order), [lists[10 + i] for i in order], (order + 110).tolist()
    )


def test_taken_rows_of_one_id_each_among_others():
    rows, lists = made([2, 1, 0, 1])
    order = np.array([3, 1])
    assert_lists(rows.take(order), [lists[3], lists[1]], [103, 101])


def test_keys_of_a_row_group(tmp_path):
    table = tiny_table(100)
    write_table(tmp_path, table)
    dataset = open_dataset(tmp_path, one_rank())
    keys = [day_keys(tmp_path, group, column="item_id") for group in dataset.groups(DAY)]
    assert [len(one) for one in keys] == [64, 36]
    assert np.concatenate(keys).tolist() == table["item_id"].to_pylist()
