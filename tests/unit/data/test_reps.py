"""Snapshots: written whole, merged day by day, the same on any ranks, never from the future."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.manifest import (
    MANIFEST,
    available_days,
    building_folder,
    snapshot_folder,
)
from lfm4ads.data.owner import owner
from lfm4ads.data.reps import open_snapshot, snapshot_before, write_part, write_snapshot
from lfm4ads.data.side import concat_sides, merge_sides, route_side
from tests.gloo import run_ranks
from tests.unit.data.states import (
    BIGGEST,
    ITEM_SPECS,
    SPECS,
    USER_SPECS,
    assert_same_side,
    header,
    join_days,
    make_day,
    one_rank,
    states_of,
    write_day,
)

DAY1, DAY2, DAY3 = 20220408, 20220409, 20220411


@pytest.mark.usefixtures("small_files")
def test_round_trip(tmp_path):
    write_day(tmp_path, DAY1)
    snapshot = open_snapshot(tmp_path, version="a1", as_of=DAY1, verify=True)
    for side, expected in states_of(make_day(DAY1)).items():
        assert_same_side(snapshot.load_states(side, one_rank()), expected)
    assert snapshot.manifest.header == header(DAY1)
    assert snapshot.manifest.rows("user") == len(np.unique(make_day(DAY1)["keys"]))


@pytest.mark.usefixtures("small_files")
def test_part_files_are_sorted_typed_and_null_where_absent(tmp_path):
    snapshot = write_day(tmp_path, DAY1)
    file = pq.ParquetFile(snapshot.folder / "user" / "part-00000.parquet")
    assert [str(field.type).replace("element", "item") for field in file.schema_arrow] == [
        "int64",
        "int64",
        "int64",
        "fixed_size_list<item: float>[4]",
        "int64",
        "int64",
        "fixed_size_list<item: float>[3]",
        "double",
        "int64",
        "int64",
        "fixed_size_list<item: float>[2]",
        "double",
        "int64",
        "int64",
    ]
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert set(sizes[:-1]) == {7}
    table = file.read()
    keys = table["key"].to_numpy()
    assert (np.diff(keys) > 0).all()
    assert keys[-1] == BIGGEST
    assert table["ur"].is_null().to_pylist() == (keys % 3 == 0).tolist()
    assert table["ur_time"].is_null().to_pylist() == (keys % 3 == 0).tolist()
    assert 0 < table["cr_ads"].null_count < len(keys)
    assert table["cr_all"].null_count == 0


@pytest.mark.parametrize("days", [(DAY1, DAY2), (DAY2, DAY1, DAY3)])
@pytest.mark.usefixtures("small_files")
def test_day_by_day_is_from_scratch(tmp_path, days):
    """Also when a day's events arrive after a later day's: its snapshot is only named later."""
    previous = None
    for index, day in enumerate(days):
        previous = write_snapshot(
            one_rank(),
            tmp_path,
            header=header(DAY1 + index),
            states=states_of(make_day(day)),
            previous=previous,
        )
    scratch = states_of(join_days(*(make_day(day) for day in days)))
    for side, expected in scratch.items():
        assert_same_side(previous.load_states(side, one_rank()), expected)


def _write_on_ranks(ranks, root, day, previous_day):
    rows = np.random.default_rng(ranks.world).permutation(600)[ranks.rank :: ranks.world]
    states = {
        side: route_side(ranks, states, [spec for spec in SPECS if spec.side == side])
        for side, states in states_of(make_day(day), rows).items()
    }
    previous = previous_day and open_snapshot(root, version="a1", as_of=previous_day)
    snapshot = write_snapshot(ranks, root, header=header(day), states=states, previous=previous)
    if previous is None:
        fail_on_all_ranks(ranks, root, snapshot, states)


def fail_on_all_ranks(ranks, root, snapshot, states):
    """The part of rank 1 alone is damaged, and rank 0 must not wait for it in a collective."""
    part = snapshot.paths("user")[1]
    whole = part.read_bytes()
    ranks.barrier()
    if ranks.rank == 1:
        part.write_bytes(bytes(len(whole)))
    with pytest.raises(UserError, match=r"user/part-00001.parquet cannot be read"):
        write_snapshot(ranks, root, header=header(DAY3), states=states, previous=snapshot)
    if ranks.rank == 1:
        part.write_bytes(whole)


@pytest.mark.multiproc
def test_any_number_of_ranks_writes_continues_and_reads(tmp_path):
    run_ranks(_write_on_ranks, 2, tmp_path, DAY1, None)
    run_ranks(_write_on_ranks, 3, tmp_path, DAY2, DAY1)
    first = open_snapshot(tmp_path, version="a1", as_of=DAY1, verify=True)
    both = open_snapshot(tmp_path, version="a1", as_of=DAY2, verify=True)
    assert (first.manifest.world, both.manifest.world) == (2, 3)
    for snapshot, events in (
        (first, make_day(DAY1)),
        (both, join_days(make_day(DAY1), make_day(DAY2))),
    ):
        for side, expected in states_of(events).items():
            for world in (1, 2, 3):
                assert_same_side(load_on(snapshot, side, world), expected)


def load_on(snapshot, side, world):
    """Load every rank's share, check that it is its own, and merge them."""
    specs = USER_SPECS if side == "user" else ITEM_SPECS
    merged = concat_sides([], specs)
    for rank in range(world):
        mine = snapshot.load_states(side, one_rank(rank, world))
        assert (owner(mine.keys, world=world) == rank).all()
        merged = merge_sides(merged, mine, specs)
    return merged


@pytest.mark.usefixtures("small_files")
def test_other_worlds_stream_in_small_batches(tmp_path):
    """The merge of several sorted parts crosses batch borders of each."""
    snapshot = write_day(tmp_path, DAY1)
    parts = [
        write_part(
            tmp_path,
            header=header(DAY2),
            side="user",
            rank=rank,
            world=3,
            states=states_of(make_day(DAY2), owner(make_day(DAY2)["keys"], world=3) == rank)[
                "user"
            ],
            previous=snapshot,
        )
        for rank in range(3)
    ]
    files = tuple(replace(part, owner=rank) for rank, part in enumerate(parts))
    manifest = replace(
        snapshot.manifest, header=header(DAY2, specs=USER_SPECS), world=3, files=files
    )
    built = replace(
        snapshot, folder=building_folder(tmp_path, version="a1", as_of=DAY2), manifest=manifest
    )
    expected = states_of(join_days(make_day(DAY1), make_day(DAY2)))["user"]
    for world in (1, 2, 3, 4):
        assert_same_side(load_on(built, "user", world), expected)


def test_a_rank_may_only_write_its_own_keys(tmp_path):
    with pytest.raises(ValueError, match="route_side comes first"):
        write_part(
            tmp_path,
            header=header(DAY1),
            side="user",
            rank=0,
            world=2,
            states=states_of(make_day(DAY1))["user"],
        )


def test_how_a_vector_is_read_may_change_between_days(tmp_path):
    first = write_day(tmp_path, DAY1)
    specs = (replace(SPECS[0], read="l2"), *SPECS[1:])
    second = write_snapshot(
        one_rank(),
        tmp_path,
        header=header(DAY2, specs=specs),
        states=states_of(make_day(DAY2)),
        previous=first,
    )
    found = second.lookup("user", ["ur"], second.keys("user"))
    np.testing.assert_allclose(
        np.linalg.norm(found.values["ur"], axis=1), found.present["ur"], rtol=1e-6
    )


def test_overwrite_replaces_the_whole_snapshot(tmp_path):
    old = write_day(tmp_path, DAY1)
    (old.folder / "user" / "stray").touch()
    write_snapshot(
        one_rank(), tmp_path, header=header(DAY1), states=states_of(make_day(DAY2)), overwrite=True
    )
    new = open_snapshot(tmp_path, version="a1", as_of=DAY1, verify=True)
    assert_same_side(new.load_states("user", one_rank()), states_of(make_day(DAY2))["user"])
    assert sorted(path.name for path in new.folder.parent.rglob("*")) == [
        f"as_of={DAY1}",
        "item",
        MANIFEST,
        "part-00000.parquet",
        "part-00000.parquet",
        "user",
    ]


KILLED = """
import os, signal, sys
from pathlib import Path
import lfm4ads.data.reps as reps
from tests.unit.data.states import header, make_day, one_rank, states_of
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(reps, sys.argv[2], die)
day = int(sys.argv[3])
states = states_of(make_day(day))
reps.write_snapshot(one_rank(), Path(sys.argv[1]), header=header(day), states=states)
"""


@pytest.mark.parametrize("moment", ["save_manifest", "replace_folder"])
def test_killed_before_the_rename_nothing_is_readable_and_a_rerun_completes(tmp_path, moment):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), moment, str(DAY1)], check=False
    )
    assert killed.returncode == -9
    building = building_folder(tmp_path, version="a1", as_of=DAY1)
    assert (building / "user").is_dir() or (building / "item").is_dir()
    stale = building / "user" / "part-00001.parquet"  # as of a run on more ranks
    stale.parent.mkdir(exist_ok=True)
    stale.touch()
    assert available_days(tmp_path, "a1") == []
    with pytest.raises(UserError, match="its dump did not finish"):
        open_snapshot(tmp_path, version="a1", as_of=DAY1)
    with pytest.raises(UserError, match="run dump for an earlier day"):
        snapshot_before(tmp_path, version="a1", day=DAY2)

    write_day(tmp_path, DAY1)
    snapshot = open_snapshot(tmp_path, version="a1", as_of=DAY1, verify=True)
    assert_same_side(snapshot.load_states("user", one_rank()), states_of(make_day(DAY1))["user"])
    assert not list(tmp_path.rglob("part-00001*"))
    assert not building.exists()


def test_a_killed_overwrite_keeps_the_old_until_the_rename(tmp_path):
    write_day(tmp_path, DAY1)
    before = snapshot_folder(tmp_path, version="a1", as_of=DAY1) / MANIFEST
    text = before.read_text()
    building = building_folder(tmp_path, version="a1", as_of=DAY1)
    write_part(
        tmp_path,
        header=header(DAY1),
        side="user",
        rank=0,
        world=1,
        states=states_of(make_day(DAY2))["user"],
    )
    assert building.exists()
    assert before.read_text() == text
    open_snapshot(tmp_path, version="a1", as_of=DAY1, verify=True)
