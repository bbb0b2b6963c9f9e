"""Ids are mixed as published, with every bit, and each table in its own way."""

import numpy as np
import pyarrow as pa
import pytest

from lfm4ads.data.hashing import hash_ids, key_of, keys_of_strings, mix64
from tests.unit.data.expected import table_row

GAMMA = 0x9E3779B97F4A7C15
# What the reference implementation of SplitMix64 (S. Vigna, public domain) prints from seed 0.
PUBLISHED = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
# printf <text> | b2sum --length 64
DIGESTS = {"": "e4a6a0577479b2b4", "user-1": "9aac5a8621eae188", "ünï": "5861af09ba88cd97"}
LARGE = [0, 1, 2**31, 2**53, 2**53 + 1, 2**62 + 1, 2**63 - 2, 2**63 - 1]


def test_mix64_is_splitmix64():
    states = np.array([0, GAMMA, 2 * GAMMA % 2**64], dtype=np.uint64)
    assert mix64(states).tolist() == PUBLISHED
    assert states.tolist() == [0, GAMMA, 2 * GAMMA % 2**64], "what was given stays as it is"


@pytest.mark.parametrize("rows", [1, 7, 64, 10_000_019])
def test_rows_of_a_table_are_those_of_plain_integers(rows):
    found = hash_ids(np.array(LARGE), table="user", rows=rows)
    assert found.dtype == np.int64
    assert found.tolist() == [table_row(one, table="user", rows=rows) for one in LARGE]


def test_neighbours_above_what_a_float_holds_differ():
    found = hash_ids(np.array(LARGE), table="user", rows=2**40)
    assert len(set(found.tolist())) == len(LARGE)


@pytest.mark.parametrize("step", [1, 8, 2**32])
def test_sequential_ids_spread_evenly(step):
    counts = np.bincount(hash_ids(np.arange(400_000) * step, table="user", rows=8), minlength=8)
    assert len(counts) == 8
    assert np.abs(counts / 50_000 - 1).max() < 0.02


def test_tables_are_salted_apart():
    ids = np.arange(20_000)
    one, other = (hash_ids(ids, table=table, rows=64) for table in ("user", "item"))
    assert (one == other).mean() == pytest.approx(1 / 64, abs=0.005)
    collide = one == one[0]
    assert len(np.unique(other[collide])) == 64, "what collides in one table is spread in another"


def test_strings_have_stable_keys():
    for text, digest in DIGESTS.items():
        assert key_of(text) == int.from_bytes(bytes.fromhex(digest), "little") % 2**63
    assert any(bytes.fromhex(digest)[-1] > 127 for digest in DIGESTS.values()), "a cleared top bit"


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_a_column_of_strings(kind):
    texts = ["user-1", None, "", "user-1", "ünï", None]
    keys = keys_of_strings(pa.array(texts, kind))
    assert keys.type == pa.int64()
    assert keys.to_pylist() == [None if text is None else key_of(text) for text in texts]
    assert keys_of_strings(pa.array([], kind)).to_pylist() == []
    sliced = keys_of_strings(pa.array(texts, kind).slice(2, 3))
    assert sliced.to_pylist() == [key_of(text) for text in texts[2:5]]
