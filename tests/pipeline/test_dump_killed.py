"""A dump killed at any moment leaves nothing half-written to read; a rerun leaves what none did."""

import os
import shutil
import signal
from dataclasses import replace

import pytest

from lfm4ads.core.files import read_json, sha256
from lfm4ads.data import reps, samples
from lfm4ads.data.manifest import available_days
from lfm4ads.data.reps import open_snapshot
from lfm4ads.data.samples import SamplesWriter, sample_files
from tests.gloo import run_ranks
from tests.pipeline.jobs import SECONDS, do, run_jobs

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(SECONDS + 100)]

DAY, LAST = 20260103, 20260104
WORDS = {
    "samples": True,
    "layers": ["towers", "top_1"],
    "half_life_events": [5.0],
    "last_as_of": LAST,
}
OWNERS = {
    "a batch of samples": (SamplesWriter, "add"),
    "the samples' manifest": (samples, "write_json"),
    "the samples' rename": (samples, "replace_folder"),
    "a part": (reps, "write_part"),
    "the manifest": (reps, "save_manifest"),
    "the rename": (reps, "replace_folder"),
}


def do_killed(ranks, one, moment, nth):
    """Run a job of which rank 0 dies on the spot at the nth call of something."""
    owner, name = OWNERS[moment]
    then, calls = getattr(owner, name), []

    def die(*args, **words):
        calls.append(1)
        if len(calls) == nth and ranks.is_first:
            os.kill(os.getpid(), signal.SIGKILL)
        return then(*args, **words)

    setattr(owner, name, die)
    return do(ranks, [one])


def files_of(folder):
    """Return path -> bytes of everything under a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def sample_days(story):
    root = story.reps / f"upstream={story.version}" / "samples"
    return sorted(int(path.parent.name[4:]) for path in root.glob("day=*/manifest.json"))


def assert_all_readable(story):
    """Whatever looks finished is whole, and no unfinished day is among what SQL would read."""
    for as_of in available_days(story.reps, story.version):
        open_snapshot(story.reps, version=story.version, as_of=as_of, verify=True)
    root = story.reps / f"upstream={story.version}" / "samples"
    visible = {path.parent for path in root.glob("day=*/*.parquet")}
    assert visible == {root / f"day={day}" for day in sample_days(story)}
    files = sample_files(story.reps, version=story.version, days=sample_days(story))
    for path in files:
        entries = {one["path"]: one for one in read_json(path.parent / "manifest.json")["files"]}
        assert sha256(path) == entries[path.name]["sha256"]


@pytest.fixture(scope="module")
def whole(pretrained, tmp_path_factory):
    """An unbroken dump by number of ranks."""
    stories = {}
    for world in (1, 2):
        stories[world] = replace(pretrained, folder=tmp_path_factory.mktemp(f"whole-{world}"))
        run_jobs(world, stories[world].dump_job(pretrain=pretrained.pretrain, **WORDS))
    return stories


@pytest.mark.parametrize(
    ("moment", "nth", "world"),
    [
        # Calls of rank 0: four batches a day, a part a side and day, a manifest a day.
        ("a batch of samples", 2, 1),
        ("a batch of samples", 10, 2),
        ("the samples' manifest", 3, 1),
        ("the samples' rename", 3, 1),
        ("a part", 4, 2),
        ("the manifest", 2, 1),
        ("the rename", 2, 1),
    ],
)
def test_killed_and_run_again(pretrained, whole, tmp_path, moment, nth, world):
    story = replace(pretrained, folder=tmp_path)
    one = story.dump_job(pretrain=pretrained.pretrain, **WORDS)
    with pytest.raises(AssertionError, match=r"died or hung|rank 1"):
        run_ranks(do_killed, world, one, moment, nth, seconds=SECONDS)
    assert len(available_days(story.reps, story.version)) < 3
    assert_all_readable(story)
    run_jobs(world, one)
    assert_all_readable(story)
    assert files_of(story.reps) == files_of(whole[world].reps)


def test_a_part_that_is_visible_too_early_would_be_seen(pretrained, whole, tmp_path):
    """The control: what the tests above call readable can be otherwise."""
    story = replace(pretrained, folder=tmp_path)
    shutil.copytree(whole[1].reps, story.reps)
    (path, *_) = sample_files(story.reps, version=story.version, days=[DAY])
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(AssertionError):
        assert_all_readable(story)
    path.write_bytes(content)
    (path.parent / "manifest.json").unlink()
    with pytest.raises(AssertionError):
        assert_all_readable(story)
