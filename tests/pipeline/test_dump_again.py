"""A dump that was killed is completed by the next, which leaves what an unbroken one leaves."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests.gloo import run_ranks
from tests.pipeline.jobs import SECONDS, do, run_jobs
from tests.pipeline.read import column, read_json, rep_rows

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(SECONDS + 100)]

DAYS = range(20260102, 20260107)


def files_of(snapshot):
    """Return path -> bytes of everything in a snapshot."""
    paths = [path for path in sorted(snapshot.rglob("*")) if path.is_file()]
    return {str(path.relative_to(snapshot)): path.read_bytes() for path in paths}


def times_of(snapshot):
    return {path: path.stat().st_mtime_ns for path in snapshot.rglob("*.parquet")}


@pytest.fixture(scope="module")
def killed(story, tmp_path_factory):
    """Representations as a dump leaves them that dies while it writes the last day but one."""
    killed = replace(story, folder=tmp_path_factory.mktemp("killed"))
    shutil.copytree(story.reps, killed.reps)
    building = killed.snapshot(20260105).with_name(".as_of=20260105.building")
    killed.snapshot(20260105).rename(building)
    (building / "manifest.json").unlink()
    part = building / "user" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:100])
    (building / "item" / "part-00007.parquet").write_text("of a run on more ranks")
    shutil.rmtree(killed.snapshot(20260106))
    return killed


def test_a_rerun_completes_it(story, killed):
    finished = {day: times_of(killed.snapshot(day)) for day in DAYS[:3]}
    run_jobs(2, killed.dump_job(pretrain=story.pretrain))
    for day in DAYS:
        assert files_of(killed.snapshot(day)) == files_of(story.snapshot(day)), day
    assert {day: times_of(killed.snapshot(day)) for day in DAYS[:3]} == finished, "written again"
    version = killed.snapshot(DAYS[0]).parent
    assert sorted(path.name for path in version.iterdir()) == [f"as_of={day}" for day in DAYS]


def test_a_rerun_of_a_finished_dump_is_refused_and_overwrites_when_told(story, tmp_path):
    again = replace(story, folder=tmp_path)
    words = {"pretrain": story.pretrain, "last_as_of": 20260102}
    jobs = [again.dump_job(**words), again.dump_job(**words)]
    results = run_ranks(do, 2, [*jobs, again.dump_job(overwrite=True, **words)], seconds=SECONDS)
    assert results[0] == results[1]
    first, second, third = results[0]
    assert first is third is None
    sentence = (
        f"{again.reps} already holds snapshots of upstream {story.version} through 20260102;"
        " choose another output or pass overwrite=true"
    )
    assert second == (sentence, True)
    assert files_of(again.snapshot(20260102)) == files_of(story.snapshot(20260102))
    assert read_json(again.snapshot(20260102) / "manifest.json")["as_of"] == 20260102


def test_an_upstream_that_is_not_trained_daily_serves_the_days_after_it(story, tmp_path):
    static = replace(story, folder=tmp_path)
    shutil.copytree(story.pretrain, static.pretrain)
    last = 20260103
    for checkpoint in (static.pretrain / "checkpoints").glob("day=*"):
        if int(checkpoint.name.removeprefix("day=")) > last:
            shutil.rmtree(checkpoint)
    run_jobs(1, static.dump_job(last_as_of=20260105))
    manifest = read_json(static.snapshot(20260105) / "manifest.json")
    assert (manifest["checkpoint_day"], manifest["trained_through"]) == (last, last)
    manifest = read_json(story.snapshot(20260105) / "manifest.json")
    assert manifest["checkpoint_day"] == 20260105
    # Of the next day the events are new, the weights are not.
    days = [rep_rows(static.snapshot(day), "user") for day in (20260104, 20260105)]
    assert days[0].num_rows < days[1].num_rows
    one, other = (rep_rows(run.snapshot(20260105), "user") for run in (static, story))
    assert not np.array_equal(column(one, "ur"), column(other, "ur"))
    assert one["key"].equals(other["key"])
