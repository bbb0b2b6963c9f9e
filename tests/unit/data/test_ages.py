"""Ages of a sequence's events: exact, aligned with the ids, and never from the future."""

import numpy as np
import pyarrow as pa
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.index import open_dataset, select_rows
from lfm4ads.data.rows import decode, join
from tests.unit.data.states import one_rank
from tests.worlds import SCHEMA, tiny_table, with_column, write_table

DAY = 20260101
ROWS, BAD_ROW = 100, 70
"""The bad row lies in the second row group of 64."""
NOW_MS = 1_767_225_600_123
LISTS = pa.list_(pa.int64())


def write(folder, *, ids, times, now=NOW_MS, schema=SCHEMA):
    """Write rows that happen at one time, with these ids and event times."""
    table = with_column(tiny_table(len(ids)), "recent", ids, LISTS)
    table = with_column(table, "time_ms", [now] * len(ids), pa.int64())
    return write_table(folder, with_column(table, "recent_times", times, LISTS), schema=schema)


def decoded(folder, *, domains=()):
    dataset = open_dataset(folder, one_rank())
    if domains:
        dataset = select_rows(dataset, domains=domains, days=[DAY], ranks=one_rank())
    return join([decode(dataset, group) for group in dataset.groups(DAY)])


def ages_of(column):
    return [part.tolist() for part in np.split(column.ages, np.cumsum(column.counts)[:-1])]


def test_ages_are_exact_and_those_of_the_kept_ids(tmp_path):
    back_ms = [[], [0], [90_061_001, 1], [4_000, 3_000, 2_000, 1_000], [5, 5, 5]]
    write(
        tmp_path,
        ids=[list(range(len(one))) for one in back_ms],
        times=[[NOW_MS - ms for ms in one] for one in back_ms],
    )
    kept_s = [[np.float32(ms / 1000) for ms in one[-3:]] for one in back_ms]
    rows = decoded(tmp_path)
    assert ages_of(rows.lists["recent"]) == kept_s
    assert rows.lists["tags"].ages is None
    taken = rows.take(np.array([3, 0, 2]))
    assert ages_of(taken.lists["recent"]) == [kept_s[3], [], kept_s[2]]


def test_sequences_of_other_lengths_share_a_column_of_times(tmp_path):
    schema = SCHEMA.replace(
        "  age: {kind",
        "  last: {kind: sequence, side: user, column: recent, table: item, times: recent_times,"
        " max_length: 1}\n  every: {kind: sequence, side: user, column: recent, table: item,"
        " times: recent_times}\n  age: {kind",
    )
    back_s = [[50, 40, 30, 20], [7], []]
    times = [[NOW_MS - 1000 * one for one in row] for row in back_s]
    write(tmp_path, ids=[[3] * len(row) for row in back_s], times=times, schema=schema)
    lists = decoded(tmp_path).lists
    assert ages_of(lists["every"]) == back_s
    assert ages_of(lists["recent"]) == [[40, 30, 20], [7], []]
    assert ages_of(lists["last"]) == [[20], [7], []]


def test_rows_of_one_domain_keep_their_own_ages(tmp_path):
    table = tiny_table(ROWS)
    write_table(tmp_path, table)
    both, ads = decoded(tmp_path), decoded(tmp_path, domains=["ads"])
    rows = np.flatnonzero(np.array(table["domain"]) == 1)
    assert 0 < len(rows) < ROWS
    assert ages_of(ads.lists["recent"]) == ages_of(both.take(rows).lists["recent"])


def test_a_nullable_sequence_may_lack_times_where_it_has_no_ids(tmp_path):
    schema = SCHEMA.replace("max_length: 3}", "max_length: 3, nullable: true}")
    ids, times = [None, [], [4]], [[], None, [NOW_MS]]
    write(tmp_path, ids=ids, times=times, schema=schema)
    assert ages_of(decoded(tmp_path).lists["recent"]) == [[], [], [0]]


FAULTS = {
    "after its row": (
        [NOW_MS - 5, NOW_MS + 2],
        "column recent_times has an event 2 ms after its row, a leak;",
    ),
    "after its row, cut off": (
        [NOW_MS + 1, *[NOW_MS] * 3],
        "column recent_times has an event 1 ms after its row, a leak",
    ),
    "newest first": (
        [NOW_MS - 1, NOW_MS - 5],
        "column recent_times has a later event before an earlier one; write events oldest first",
    ),
    "too few": (
        [NOW_MS],
        "column recent_times has 1 times in a row where recent has 2 ids; write one time for each",
    ),
    "none": (None, "column recent_times has 0 times in a row where recent has 2 ids"),
    "null inside": ([NOW_MS, None], "column recent_times has 1 null"),
    "before 1970": ([-3, NOW_MS], "column recent_times has the negative id -3"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_list_of_times_is_one_sentence(tmp_path, name):
    bad, words = FAULTS[name]
    ids, times = [[1, 2]] * ROWS, [[NOW_MS - 9, NOW_MS]] * ROWS
    times[BAD_ROW] = bad
    if name == "after its row, cut off":
        ids[BAD_ROW] = [1, 2, 3, 4]
    file = write(tmp_path, ids=ids, times=times)
    with pytest.raises(UserError) as caught:
        decoded(tmp_path)
    assert str(caught.value).startswith(f"{file}, row group 1: {words}")
    assert "\n" not in str(caught.value)


def test_lists_that_agree_in_sum_alone_are_refused(tmp_path):
    ids, times = [[1, 2], [3]], [[NOW_MS], [NOW_MS - 1, NOW_MS]]
    write(tmp_path, ids=ids, times=times)
    with pytest.raises(UserError, match="1 times in a row where recent has 2 ids"):
        decoded(tmp_path)
