"""Every refusal of a snapshot is one sentence that names the place and the fix."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.manifest import (
    MANIFEST,
    available_days,
    available_versions,
)
from lfm4ads.data.reps import open_snapshot, write_snapshot
from tests.unit.data.states import (
    BIGGEST,
    SPECS,
    header,
    make_day,
    one_rank,
    states_of,
    write_day,
)

DAY1, DAY2, DAY3 = 20220408, 20220409, 20220411


def test_refusals_to_open(tmp_path):
    folder = write_day(tmp_path, DAY1).folder
    write_snapshot(
        one_rank(), tmp_path, header=header(DAY1, upstream="b2"), states=states_of(make_day(DAY1))
    )
    assert available_versions(tmp_path) == ["a1", "b2"]

    def refused(pattern, *, version="a1", as_of=DAY1, verify=False):
        with pytest.raises(UserError, match=pattern):
            open_snapshot(tmp_path, version=version, as_of=as_of, verify=verify)

    refused(r"upstream \['a1', 'b2'\], not c3; rerun dump", version="c3")
    refused(rf"as_of={DAY2} has no manifest.json.*finished days: \[{DAY1}\]", as_of=DAY2)
    shutil.copytree(folder, folder.with_name(f"as_of={DAY2}"))
    refused(f"as of {DAY1}, not {DAY2}; rerun dump", as_of=DAY2)
    shutil.copytree(folder.parent, tmp_path / "upstream=c3")
    refused("is of upstream a1, not c3; rerun dump", version="c3")

    part = folder / "item" / "part-00000.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    refused(rf"item/part-00000.parquet has {len(whole) - 1} bytes, its manifest says {len(whole)}")
    part.write_bytes(whole[:200] + bytes(8) + whole[208:])
    open_snapshot(tmp_path, version="a1", as_of=DAY1)
    refused("part-00000.parquet does not match its checksum", verify=True)
    part.unlink()
    refused("part-00000.parquet is in the manifest but not on disk")
    part.write_bytes(whole)

    manifest = folder / MANIFEST
    text = manifest.read_text()
    for change, pattern in (
        ({"schema_version": 1}, "schema_version 1, this program reads 2"),
        ({"world": 2}, "not a manifest of this program .files do not cover"),
        ({"files": None}, "not a manifest of this program"),
        ({"trained_through": DAY2}, "a leak"),
    ):
        manifest.write_text(json.dumps(json.loads(text) | change))
        refused(pattern)
    manifest.write_text(json.dumps({k: v for k, v in json.loads(text).items() if k != "as_of"}))
    refused("not a manifest of this program .'as_of'")
    manifest.write_text("[]")
    refused("schema_version None")
    manifest.write_text(text[:-40])
    refused("is not valid JSON")


def test_a_damaged_part_is_one_sentence(tmp_path):
    snapshot = write_day(tmp_path, DAY1)
    part = snapshot.paths("user")[0]
    whole = part.read_bytes()
    part.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    for access in (
        lambda: snapshot.load_states("user", one_rank()),
        lambda: snapshot.lookup("user", ["ur"], np.array([BIGGEST])),
        lambda: snapshot.keys("user"),
        lambda: write_day(tmp_path, DAY2, previous=snapshot),
    ):
        with pytest.raises(UserError, match=r"part-00000.parquet cannot be read .*; rerun dump"):
            access()
    assert available_days(tmp_path, "a1") == [DAY1]


def test_refusals_to_write_and_to_look_up(tmp_path):
    first = write_day(tmp_path, DAY1)
    with pytest.raises(UserError, match=r"already holds a finished snapshot.*overwrite=true"):
        write_day(tmp_path, DAY1)
    with pytest.raises(UserError, match=f"already holds events of {DAY1}, so day {DAY1} cannot"):
        write_day(tmp_path, DAY1, previous=first, overwrite=True)
    with pytest.raises(UserError, match="comes from upstream a1, not b2; rebuild"):
        write_snapshot(
            one_rank(), tmp_path, header=header(DAY2, upstream="b2"), states={}, previous=first
        )
    other = (replace(SPECS[1], half_life=5.0), *SPECS[:1], *SPECS[2:])
    with pytest.raises(UserError, match=r"differ .* rebuild from the first day"):
        write_snapshot(
            one_rank(), tmp_path, header=header(DAY2, specs=other), states={}, previous=first
        )
    with pytest.raises(
        UserError, match=r"holds user representations \['cr_ads', 'cr_all', 'ur'\], not ir"
    ):
        first.lookup("user", ["ir"], np.array([1]))
