"""What the reader gives tables with ids: managed."""

import numpy as np
import pytest

from lfm4ads.data.hashing import mix_ids
from lfm4ads.data.schema import TableSpec
from tests.batches import read_batches
from tests.worlds import SCHEMA, write_tiny

MANAGED = SCHEMA.replace("user: {rows: 64, dim: 8}", "user: {rows: 64, dim: 8, ids: managed}")


def test_ids_are_mixed_below_2_to_the_63_and_stay_apart():
    ids = np.r_[np.arange(100_000), 2**62 + np.arange(1000), [2**63 - 1]]
    mixed = mix_ids(ids, table="user")
    assert mixed.dtype == np.int64
    assert mixed.min() >= 0
    assert len(np.unique(mixed)) == len(ids)
    assert abs(np.mean(mixed / 2**63) - 0.5) < 0.01
    assert not np.isin(mixed, mix_ids(ids, table="item")).any()


def test_the_reader_gives_mixed_ids_to_managed_tables_alone(tmp_path):
    plain, managed = (
        read_batches(write_tiny(tmp_path / name, days=1, rows=100, schema=schema))
        for name, schema in (("plain", SCHEMA), ("managed", MANAGED))
    )
    for one, other in zip(plain, managed, strict=True):
        for name in one.sparse.keys():  # noqa: SIM118 - no dict
            if name != "user_id":
                assert (one.sparse[name].values() == other.sparse[name].values()).all()
        users = other.user[other.valid].numpy()
        found = np.sort(other.sparse["user_id"].values().numpy())
        np.testing.assert_array_equal(found, np.sort(mix_ids(users, table="user")))


def test_a_table_says_how_ids_come_to_rows():
    assert TableSpec(rows=4, dim=4).ids == "hash"


@pytest.mark.parametrize("word", ["hash", "managed"])
def test_the_schema_takes_both(tmp_path, word):
    text = SCHEMA.replace("user: {rows: 64, dim: 8}", f"user: {{rows: 64, dim: 8, ids: {word}}}")
    folder = write_tiny(tmp_path / word, days=1, rows=20, schema=text)
    assert read_batches(folder)
