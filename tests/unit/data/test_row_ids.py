"""Ids of a table with ``ids: rows`` are its rows."""

import pyarrow as pa
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.index import open_dataset
from lfm4ads.data.rows import decode, join
from tests.unit.data.states import one_rank
from tests.worlds import SCHEMA, tiny_table, with_column, write_table

DAY, COUNT, BAD = 20260101, 100, 70
"""The bad row lies in the second row group of 64."""
ROW_IDS = SCHEMA.replace("user: {rows: 64, dim: 8}", "user: {rows: 60, dim: 8, ids: rows}")


def decoded(folder, ids, *, column="user_id"):
    table = with_column(tiny_table(COUNT), column, ids, pa.int64())
    write_table(folder, table, schema=ROW_IDS)
    dataset = open_dataset(folder, one_rank())
    return join([decode(dataset, group) for group in dataset.groups(DAY)])


def test_they_stay_as_they_are(tmp_path):
    ids = [index % 60 for index in range(COUNT)]
    assert decoded(tmp_path, ids).ids[:, 0].tolist() == ids


def test_one_beyond_the_rows_is_refused(tmp_path):
    words = r"row group 1: column user_id has id 60, but ids are rows of table user, which has 60"
    with pytest.raises(UserError, match=words):
        decoded(tmp_path, [60 if index == BAD else 0 for index in range(COUNT)])
