"""Every fault of a row is a sentence with file, row group, column and fix; good types are exact."""

import math
from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.columns import needed_columns, read_keys
from lfm4ads.data.hashing import key_of
from lfm4ads.data.index import open_dataset
from lfm4ads.data.ragged import NO_ID
from lfm4ads.data.rows import decode
from lfm4ads.data.schema import load_schema
from tests.unit.data.expected import table_row
from tests.unit.data.states import one_rank
from tests.worlds import SCHEMA, tiny_table, with_column, with_value, write_table

DAY = 20260101
ROWS, BAD_ROW = 100, 70
"""The bad row lies in the second row group of 64."""
TABLE = tiny_table(ROWS)
NULLS = "has 1 null(s); drop those rows, fill them, or mark the feature nullable in schema.yaml"
NO_NUMBER = "has a NaN or infinite number; write a missing number as null and mark it nullable"
NEGATIVE = "ids are 0 to 2^63-1, write a missing one as null"
NOT_BINARY = "of a binary task holds values other than 0 and 1"
NO_LABEL = "has a NaN or infinite value; write a missing label as null"


def decoded(folder, *, horizons=None):
    dataset = open_dataset(folder, one_rank())
    return [decode(dataset, group, horizons=horizons) for group in dataset.groups(DAY)]


ROW_FAULTS = {
    "null user": ("user_id", None, None, NULLS),
    "null item": ("item_id", None, None, NULLS),
    "null time": ("time_ms", None, None, NULLS),
    "null domain": ("domain", None, None, NULLS),
    "null scenario": ("scenario", None, None, NULLS),
    "null row id": ("row_id", None, None, NULLS),
    "null id": ("hour", None, None, NULLS),
    "null list": ("recent", None, None, NULLS),
    "null in a list": ("recent", [1, None], None, NULLS),
    "null in a nullable list": ("tags", [None], None, NULLS),
    "null number": ("age", None, None, NULLS),
    "null vector": ("picture", None, None, NULLS),
    "null in a vector": ("picture", [1.0, None, 1.0, 1.0], None, NULLS),
    "null in a nullable vector": ("taste", [1.0, None, 1.0, 1.0], None, NULLS),
    "NaN in a nullable vector": (
        "taste",
        [1.0, math.nan, 1.0, 1.0],
        None,
        "infinite component; write",
    ),
    "NaN number": ("age", math.nan, pa.float64(), NO_NUMBER),
    "infinite number": ("age", -math.inf, pa.float32(), NO_NUMBER),
    "NaN in a nullable number": ("price", math.nan, None, NO_NUMBER),
    "number beyond float32": ("age", 1e300, pa.float64(), NO_NUMBER),
    "NaN in a vector": ("picture", [0.0, math.nan, 0.0, 0.0], None, "infinite component; write"),
    "infinity in a vector": ("picture", [math.inf] * 4, None, "infinite component; write"),
    "component beyond float32": (
        "picture",
        [1e300] * 4,
        pa.list_(pa.float64(), 4),
        "infinite component; write",
    ),
    "negative user": ("user_id", -5, None, f"has the negative id -5; {NEGATIVE}"),
    "negative time": ("time_ms", -1, None, f"has the negative id -1; {NEGATIVE}"),
    "negative id": ("hour", -2, None, f"has the negative id -2; {NEGATIVE}"),
    "negative id in a list": ("recent", [4, -7], None, f"has the negative id -7; {NEGATIVE}"),
    "negative domain": ("domain", -1, None, "has the negative id -1"),
    "user of 2^63": ("user_id", 2**63, pa.uint64(), "has an id of 2^63 or more; ids are 0 to"),
    "id of 2^64-1": ("hour", 2**64 - 1, pa.uint64(), "has an id of 2^63 or more; ids are 0 to"),
    "tag of 2^63": (
        "tags",
        [1, 2**63],
        pa.list_(pa.uint64()),
        "has an id of 2^63 or more; ids are 0 to",
    ),
    "unknown domain": ("domain", 2, None, "has 2, but schema.yaml lists only 0 to 1"),
    "unknown scenario": ("scenario", 3, None, "has 3, but schema.yaml lists only 0 to 2"),
    "label 2": ("click", 2, None, NOT_BINARY),
    "label -1": ("long_view", -1, None, NOT_BINARY),
    "label 0.5": ("click", 0.5, pa.float64(), NOT_BINARY),
    "event 2": ("conversion", 2, None, NOT_BINARY),
    "NaN label": ("click", math.nan, pa.float32(), NO_LABEL),
    "infinite delay": ("conversion_delay_ms", math.inf, None, NO_LABEL),
}


@pytest.mark.parametrize("name", ROW_FAULTS)
def test_a_bad_row_is_one_sentence(tmp_path, name):
    column, value, kind, words = ROW_FAULTS[name]
    if value is None or name.startswith("null in"):
        kind = TABLE.schema.field(column).type
    table = with_value(TABLE, column, value, row=BAD_ROW, kind=kind)
    file = write_table(tmp_path, table)
    with pytest.raises(UserError) as caught:
        decoded(tmp_path, horizons={"conversion": 0})
    sentence = str(caught.value)
    assert sentence.startswith(f"{file}, row group 1: ")
    assert f"column {column} " in sentence
    assert words in sentence
    assert "\n" not in sentence


TYPE_FAULTS = {
    "float user": ("user_id", pa.float64(), "double, must be integer or string", True),
    "float item": ("item_id", pa.float32(), "float, must be integer or string", True),
    "float id": ("hour", pa.float64(), "double, must be integer or string", True),
    "float row id": ("row_id", pa.float64(), "double, must be integer;", True),
    "bool user": ("user_id", pa.bool_(), "bool, must be integer or string", False),
    "float time": ("time_ms", pa.float64(), "double, must be integer;", True),
    "text domain": ("domain", pa.string(), "string, must be integer;", False),
    "float scenario": ("scenario", pa.float32(), "float, must be integer;", True),
    "text label": ("click", pa.string(), "string, must be a number", False),
    "text delay": ("conversion_delay_ms", pa.string(), "string, must be a number", False),
    "text number": ("age", pa.string(), "string, must be a number", False),
}


@pytest.mark.parametrize("name", TYPE_FAULTS)
def test_a_wrong_type_is_one_sentence(tmp_path, name):
    column, kind, words, hint = TYPE_FAULTS[name]
    file = write_table(
        tmp_path, with_column(TABLE, column, TABLE[column].cast(kind).combine_chunks())
    )
    with pytest.raises(UserError) as caught:
        open_dataset(tmp_path, one_rank())
    sentence = str(caught.value)
    assert sentence.startswith(f"{file}: column {column} is {words}")
    assert ("a float cannot hold ids above 2^53" in sentence) == hint
    assert sentence.endswith("; write it with that type")


@pytest.mark.parametrize("key", ["user", "item"])
def test_a_key_that_no_feature_reads_is_checked_too(tmp_path, key):
    schema = SCHEMA.replace(f"{key}: {key}_id\n", f"{key}: visitor\n")
    table = TABLE.append_column("visitor", pa.array([1.0] * ROWS))
    file = write_table(tmp_path, table, schema=schema)
    with pytest.raises(UserError, match="a float cannot hold ids above") as caught:
        open_dataset(tmp_path, one_rank())
    assert str(caught.value).startswith(f"{file}: column visitor is double")
    whole = with_column(table, "visitor", list(range(ROWS)))
    write_table(tmp_path, whole, schema=schema)
    keys = np.concatenate([rows.arrays[key] for rows in decoded(tmp_path)])
    assert keys.tolist() == list(range(ROWS))


NESTED_FAULTS = {
    "list of float": ("tags", [[1.0]] * ROWS, pa.list_(pa.float64()), "list of integer or string"),
    "id for a list": ("recent", [1] * ROWS, pa.int64(), "list of integer or string"),
    "list for an id": ("item_id", [[1]] * ROWS, pa.list_(pa.int64()), "integer or string"),
    "time of day": ("time_ms", [datetime(2026, 1, 1)] * ROWS, pa.timestamp("ms"), "integer"),
    "time of day in a list": ("recent_times", [["now"]] * ROWS, None, "list of integer"),
    "one time": ("recent_times", [1] * ROWS, pa.int64(), "list of integer"),
    "float times": ("recent_times", [[1.0]] * ROWS, None, "list of integer"),
    "ragged vector": ("picture", [[1.0] * 4] * ROWS, pa.list_(pa.float32()), "fixed_size_list of"),
    "whole vector": ("picture", [[1] * 4] * ROWS, pa.list_(pa.int8(), 4), "fixed_size_list of"),
}


@pytest.mark.parametrize("name", NESTED_FAULTS)
def test_a_wrong_nesting_is_one_sentence(tmp_path, name):
    column, values, kind, words = NESTED_FAULTS[name]
    file = write_table(tmp_path, with_column(TABLE, column, values, kind))
    with pytest.raises(UserError) as caught:
        open_dataset(tmp_path, one_rank())
    assert str(caught.value).startswith(f"{file}: column {column} is ")
    assert f"must be {words}" in str(caught.value)


def test_a_vector_of_another_length_is_one_sentence(tmp_path):
    values = pa.array([[1.0] * 3] * ROWS, pa.list_(pa.float32(), 3))
    file = write_table(tmp_path, with_column(TABLE, "picture", values))
    with pytest.raises(UserError) as caught:
        decoded(tmp_path)
    assert str(caught.value) == (
        f"{file}, row group 0: column picture holds vectors of 3, schema.yaml says 4;"
        " mend one of them"
    )


def test_every_needed_column_is_missed(tmp_path):
    write_table(tmp_path, TABLE)
    columns = needed_columns(load_schema(tmp_path))
    assert sorted(columns) == sorted(TABLE.column_names)
    for column in columns:
        file = write_table(tmp_path, TABLE.drop_columns([column]))
        with pytest.raises(UserError) as caught:
            open_dataset(tmp_path, one_rank())
        assert str(caught.value) == (
            f"{file} has no column {column}, which schema.yaml names;"
            " add it to the file or mend the schema"
        )


def test_columns_that_nothing_names_are_not_read(tmp_path):
    write_table(tmp_path, TABLE.append_column("note", pa.array([None] * ROWS, pa.string())))
    assert sum(len(rows) for rows in decoded(tmp_path)) == ROWS


def values_of(rows, name):
    """Return the table rows of a feature, whose schema is the tiny world's."""
    ids = ["user_id", "item_id", "hour"]
    return rows.ids[:, ids.index(name)] if name in ids else rows.lists[name].values


LARGE = [0, 2**53, 2**53 + 1, 2**62 + 1, 2**63 - 2, 2**63 - 1]


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64()])
def test_large_ids_are_exact(tmp_path, kind):
    ids = (LARGE * ROWS)[:ROWS]
    table = with_column(TABLE, "user_id", ids, kind)
    table = with_column(table, "recent", [[one] for one in ids], pa.list_(kind))
    table = with_column(table, "recent_times", [[1]] * ROWS, pa.list_(kind))
    write_table(tmp_path, table)
    users = np.concatenate([rows.arrays["user"] for rows in decoded(tmp_path)])
    assert users.tolist() == ids
    for name, salt, size in (("user_id", "user", 64), ("recent", "item", 128)):
        found = np.concatenate([values_of(rows, name) for rows in decoded(tmp_path)])
        assert found.tolist() == [table_row(one, table=salt, rows=size) for one in ids]


@pytest.mark.parametrize("kind", [pa.int16(), pa.uint32(), pa.int64()])
def test_any_integer_will_do(tmp_path, kind):
    table = TABLE
    for column in ("user_id", "item_id", "domain", "scenario", "hour", "age"):
        table = with_column(table, column, TABLE[column].cast(kind).combine_chunks())
    write_table(tmp_path / "other", table)
    write_table(tmp_path / "plain", TABLE)
    for mine, plain in zip(decoded(tmp_path / "other"), decoded(tmp_path / "plain"), strict=True):
        for name, array in plain.arrays.items():
            assert mine.arrays[name].dtype == array.dtype
            np.testing.assert_array_equal(mine.arrays[name], array)
        np.testing.assert_array_equal(mine.ids, plain.ids)
        for name, column in plain.lists.items():
            np.testing.assert_array_equal(mine.lists[name].values, column.values)
            np.testing.assert_array_equal(mine.lists[name].counts, column.counts)


@pytest.mark.parametrize("kind", [pa.bool_(), pa.uint8(), pa.float32(), pa.float64()])
def test_labels_and_numbers_of_any_number_type(tmp_path, kind):
    table = with_column(TABLE, "click", TABLE["click"].cast(kind).combine_chunks())
    ages = [index % 2 for index in range(ROWS)]
    table = with_column(table, "age", pa.array(ages, pa.int8()).cast(kind))
    write_table(tmp_path, table)
    rows = decoded(tmp_path)
    clicks = np.concatenate([one.arrays["labels"][:, 0] for one in rows])
    assert clicks.tolist() == TABLE["click"].to_pylist()
    numbers = np.concatenate([one.arrays["numbers"][:, 0] for one in rows])
    np.testing.assert_allclose(numbers, (np.array(ages) - 40) / 10, rtol=1e-6)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_string_keys(tmp_path, kind):
    names = [f"user-{index % 7}" for index in range(ROWS)]
    table = with_column(TABLE, "user_id", names, kind)
    tags = [None if index % 5 == 0 else [f"tag-{index % 3}", ""] for index in range(ROWS)]
    table = with_column(table, "tags", tags, pa.large_list(kind))
    write_table(tmp_path, table)
    rows = decoded(tmp_path)
    users = np.concatenate([one.arrays["user"] for one in rows])
    assert users.tolist() == [key_of(name) for name in names]
    found = np.concatenate([one.lists["tags"].values for one in rows])
    texts = [text for bag in tags if bag for text in bag]
    assert found.tolist() == [table_row(key_of(text), table="tag", rows=32) for text in texts]


def test_a_null_in_a_string_key_is_refused(tmp_path):
    names = [None if index == BAD_ROW else "x" for index in range(ROWS)]
    write_table(tmp_path, with_column(TABLE, "item_id", names, pa.string()))
    with pytest.raises(UserError, match=r"row group 1: column item_id has 1 null"):
        decoded(tmp_path)


def test_a_nullable_id_is_an_empty_bag(tmp_path):
    hours = [None if index % 3 else index % 24 for index in range(ROWS)]
    schema = SCHEMA.replace(
        "side: context, table: tag", "side: context, table: tag, nullable: true"
    )
    write_table(tmp_path, with_column(TABLE, "hour", hours, pa.int8()), schema=schema)
    rows = decoded(tmp_path)
    found = np.concatenate([values_of(one, "hour") for one in rows])
    assert found.tolist() == [
        NO_ID if hour is None else table_row(hour, table="tag", rows=32) for hour in hours
    ]


def test_a_sliced_column_keeps_its_own_rows():
    values = pa.array([5, 6, 7, 8], pa.int64()).slice(1, 2)
    assert read_keys(values, column="a", where="here").tolist() == [6, 7]
