"""Rows of keys are those a dictionary gives, however the keys come."""

import numpy as np
import pytest

from lfm4ads.data.hashing import mix64
from lfm4ads.data.keyrows import KeyRows

ENDS = [-(2**63), -1, 0, 1, 2**63 - 1]


def check(table, keys):
    """Every row holds its key, and equal keys have equal rows."""
    rows = table.rows(keys)
    np.testing.assert_array_equal(table.keys[rows], keys)
    return rows


@pytest.mark.parametrize("step", [1, 7, 1_000, 40_000])
def test_rows_stay_and_count_up(step):
    rng = np.random.default_rng(step)
    known = np.append(rng.integers(-(2**62), 2**62, 9_000), ENDS)
    keys = known[rng.integers(0, len(known), 40_000 if step > 1 else 3_000)]
    table, first = KeyRows(), {}
    for start in range(0, len(keys), step):
        some = keys[start : start + step]
        before = len(table)
        rows = check(table, some)
        assert set(rows[rows >= before]) == set(range(before, len(table)))
        for key, row in zip(some.tolist(), rows.tolist(), strict=True):
            assert first.setdefault(key, row) == row
    assert len(table) == len(first) == len(np.unique(keys))


def test_no_keys():
    table = KeyRows()
    assert (len(table.rows(np.zeros(0, np.int64))), len(table), len(table.keys)) == (0, 0, 0)


def test_keys_of_one_place_find_each_other():
    """Keys whose mixed high bits are equal go to the same slot, and probe on."""
    keys = np.arange(4_000_000)
    crowd = keys[mix64(keys) >> np.uint64(53) == 2_047]
    assert len(crowd) > 1_000
    table = KeyRows()
    rows = check(table, crowd)
    np.testing.assert_array_equal(check(table, crowd[::-1]), rows[::-1])
    check(table, np.append(crowd, np.arange(100)))
    assert len(table) == len(np.union1d(crowd, np.arange(100)))
