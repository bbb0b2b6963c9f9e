"""Lookups by key: the right rows, zeros for the unknown, never from the future."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.decay import read
from lfm4ads.data.manifest import (
    available_days,
)
from lfm4ads.data.reps import snapshot_before, write_snapshot
from tests.unit.data.states import (
    BIGGEST,
    header,
    make_day,
    one_rank,
    states_of,
    write_day,
)

DAY1, DAY2, DAY3 = 20220408, 20220409, 20220411


@pytest.mark.usefixtures("small_files")
def test_lookup_reads_what_the_manifest_says(tmp_path):
    snapshot = write_day(tmp_path, DAY1)
    events, states = make_day(DAY1), states_of(make_day(DAY1))["user"]
    unknown = np.array([0, 1, BIGGEST - 1, -5, -(2**63)])
    assert not np.isin(unknown, events["keys"]).any()
    asked = np.random.default_rng(1).permutation(
        np.concatenate([events["keys"][:40], unknown, [BIGGEST]])
    )
    found = snapshot.lookup("user", ["cr_all", "ur", "cr_ads"], asked)
    expected = {
        "ur": (states.latest["ur"].keys, states.latest["ur"].vector),
        "cr_ads": (states.decayed["cr_ads"].keys, read(states.decayed["cr_ads"], "layernorm")),
        "cr_all": (states.decayed["cr_all"].keys, read(states.decayed["cr_all"], "mean")),
    }
    for name, (keys, values) in expected.items():
        rows = dict(zip(keys.tolist(), values, strict=True))
        assert found.present[name].tolist() == [key in rows for key in asked.tolist()]
        zeros = np.zeros(values.shape[1])
        wanted = [rows.get(key, zeros) for key in asked.tolist()]
        np.testing.assert_allclose(found.values[name], wanted, rtol=2e-6, atol=2e-6)
        assert found.values[name].dtype == np.float32
    known = np.isin(asked, events["keys"])
    assert found.events.tolist() == [(events["keys"] == key).sum() for key in asked]
    last = [
        events["times"][events["keys"] == key].max() if hit else 0
        for key, hit in zip(asked, known, strict=True)
    ]
    assert found.last_time.tolist() == last
    now = 9 * 86_400_000
    assert found.age_ms(now).tolist() == [
        now - time if hit else 0 for time, hit in zip(last, known, strict=True)
    ]


def test_table_serves_batches_from_memory(tmp_path):
    snapshot = write_day(tmp_path, DAY1)
    keys = snapshot.keys("item")
    assert keys.tolist() == sorted(set(make_day(DAY1)["keys"].tolist()))
    table = snapshot.subset("item", ["ir"], keys[::2])
    shutil.rmtree(tmp_path)
    batch = table.lookup(np.array([keys[2], 3, keys[2], keys[0]]))
    assert batch.present["ir"].tolist() == [True, False, True, True]
    np.testing.assert_array_equal(batch.values["ir"][0], batch.values["ir"][2])
    np.testing.assert_allclose(np.linalg.norm(batch.values["ir"], axis=1), [1, 0, 1, 1], rtol=1e-6)
    assert table.lookup(np.zeros(0, np.int64)).values["ir"].shape == (0, 4)


def test_no_keys_asked_and_no_keys_known(tmp_path):
    empty = states_of(make_day(DAY1), slice(0, 0))
    snapshot = write_snapshot(one_rank(), tmp_path, header=header(DAY1), states=empty)
    asked = np.array([BIGGEST, 4])
    found = snapshot.lookup("user", ["ur"], asked)
    assert not found.present["ur"].any()
    assert not found.values["ur"].any()
    table = write_day(tmp_path, DAY2, previous=snapshot).subset(
        "user", ["ur"], np.zeros(0, np.int64)
    )
    assert not table.lookup(asked).present["ur"].any()


@pytest.mark.usefixtures("small_files")
def test_only_overlapping_row_groups_are_read(tmp_path, monkeypatch):
    snapshot = write_day(tmp_path, DAY1)
    seen = []
    whole = pq.ParquetFile.read_row_group

    def counting(self, group, **options):
        seen.append(group)
        return whole(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    keys = snapshot.keys("user")
    assert snapshot.lookup("user", ["ur"], keys[15:17]).events.all()
    assert seen == [2]


def test_point_in_time_is_strictly_before_the_day(tmp_path):
    first = write_day(tmp_path, DAY1)
    third = write_day(tmp_path, DAY3, previous=first)
    assert available_days(tmp_path, "a1") == [DAY1, DAY3]
    as_of = {
        day: snapshot_before(tmp_path, version="a1", day=day).manifest.header.as_of
        for day in range(DAY1 + 1, DAY3 + 2)
    }
    assert as_of == {DAY1 + 1: DAY1, DAY1 + 2: DAY1, DAY3: DAY1, DAY3 + 1: DAY3}
    # An event of DAY3 must not be seen by samples of DAY3: the snapshot of a day later does differ.
    asked = np.setdiff1d(third.keys("user"), first.keys("user"))
    assert len(asked)
    assert (
        not snapshot_before(tmp_path, version="a1", day=DAY3)
        .lookup("user", ["ur"], asked)
        .events.any()
    )
    assert (
        snapshot_before(tmp_path, version="a1", day=DAY3 + 1)
        .lookup("user", ["ur"], asked)
        .events.all()
    )
    with pytest.raises(
        UserError, match=rf"before {DAY1} \(it has days \[{DAY1}, {DAY3}\].*run dump"
    ):
        snapshot_before(tmp_path, version="a1", day=DAY1)
