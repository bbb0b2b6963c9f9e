"""A pretrain that is stopped, killed or told to go further ends where an unbroken one ends."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from tests.gloo import run_ranks
from tests.pipeline.jobs import (
    ROOT,
    SECONDS,
    assert_same_checkpoint,
    do_until_saved,
    do_until_scored,
    everything,
    job,
    run_jobs,
    tensors_of,
)
from tests.pipeline.read import read_json, read_lines
from tests.worlds import write_tiny

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(2 * SECONDS)]

CHECKPOINTS = (20260101, 20260102, 20260103)
ENDS = ("stopped", "killed", "killed when scored", "extended")
FULL = everything(
    behaviours="recent",
    target="item_id",
    user="taste",
    item="picture",
    number="age",
    repeat="price",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    write_tiny(folder / "data", days=3, rows=640, row_group_rows=128)
    shutil.copytree(folder / "data", folder / "other labels")
    for path in (folder / "other labels" / "day=20260102").iterdir():
        pq.write_table(without_conversions(pq.read_table(path)), path, row_group_size=128)
    return folder


def without_conversions(table):
    """Return the rows of a day on which nobody bought."""
    at = table.column_names.index("conversion")
    none = pc.multiply(table["conversion"], pa.scalar(0, pa.int8()))
    return table.set_column(at, "conversion", none)


def pretrain(root, name, **words):
    """A run of 80 steps with two passes over the base, chosen on the day after it."""
    own = {
        "data": root / "data",
        "output": root / name,
        "days__first": 20260101,
        "days__base_last": 20260101,
        "days__last": 20260103,
        "days__max_epochs": 2,
        "reader__batch_size": 32,
        "save_every_steps": 7,
    }
    return job("pretrain", **(own | words))


def pretrain_full(root, name, **words):
    """A run of 100 steps with everything on: 20 a day, and 20 more for each day's conversions."""
    return pretrain(root, name, **(FULL | {"days__max_epochs": 1} | words))


@contextmanager
def launched(one):
    """Start a job as a user does, on two ranks; whatever is left of it is killed at the end."""
    config = f"configs/{one.stage}/debug.yaml"
    words = ["--nproc-per-node", "2", "-m", f"launch.{one.stage}", config, *one.words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LFM4ADS_DEVICE": "cpu"}
    with subprocess.Popen(
        [sys.executable, "-m", "launch.ranks", *words],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def rank_of(launcher):
    """Return the process id of one rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return next(pid for pid, command in commands.items() if b"launch.pretrain" in command)


def wait_for_saved_step(process, run):
    """Wait until a checkpoint of mid-day is there."""
    deadline = time.monotonic() + SECONDS
    while not (run / "checkpoints" / "last" / "manifest.json").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "no checkpoint in mid-day"
        time.sleep(0.01)


def stop(root, name):
    """Send SIGTERM to the launcher, as a scheduler that wants the machine back does."""
    with launched(pretrain(root, name)) as process:
        wait_for_saved_step(process, root / name)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=SECONDS)
    return process.returncode, errors.splitlines()


def kill(root, name):
    """Send SIGKILL to one rank, as a machine out of memory does."""
    with launched(pretrain(root, name)) as process:
        wait_for_saved_step(process, root / name)
        os.kill(rank_of(process), signal.SIGKILL)
        _, errors = process.communicate(timeout=SECONDS)
    return process.returncode, errors.splitlines()


def positions(run):
    """Return (work item, step) of every complete checkpoint."""
    metas = [read_json(path) for path in run.glob("checkpoints/*/meta.json")]
    return [(meta["position"]["index"], meta["position"]["step"]) for meta in metas]


@pytest.fixture(scope="module")
def broken(root):
    """Runs that did not reach the end; what the launcher said of them."""
    said = {name: function(root, name) for name, function in (("stopped", stop), ("killed", kill))}
    with pytest.raises(AssertionError, match="died or hung"):
        run_ranks(
            do_until_scored,
            2,
            pretrain(root, "killed when scored", save_every_steps=0),
            "prequential:20260103",
            seconds=SECONDS,
        )
    with pytest.raises(AssertionError, match="died or hung"):
        run_ranks(do_until_saved, 2, pretrain_full(root, "full"), "late", seconds=SECONDS)
    shutil.copytree(root / "full", root / "before" / "full")
    run_jobs(2, pretrain(root, "extended", days__last=20260102))
    for name in ENDS:
        shutil.copytree(root / name, root / "before" / name)
    return said


@pytest.fixture(scope="module")
def finished(root, broken):
    """All runs after the second attempt, and one that needed no second."""
    assert broken.keys() == set(ENDS[:2])
    again = [pretrain(root, name) for name in ENDS[:2]]
    again.append(pretrain(root, "killed when scored", save_every_steps=0))
    again.append(pretrain(root, "extended", extend=True))
    again += [pretrain_full(root, "full"), pretrain_full(root, "full unbroken")]
    again.append(pretrain_full(root, "full other labels", data=root / "other labels"))
    run_jobs(2, pretrain(root, "unbroken"), *again)
    return root


def test_a_stopped_run_says_that_it_saved(root, broken):
    status, lines = broken["stopped"]
    assert status == 1
    (sentence,) = (line for line in lines if line.startswith("error: stopped by a signal at step"))
    assert sentence.endswith("which is saved; run the same command to go on")
    assert lines[-1] == "error: stopped by SIGTERM, and the ranks with it"
    step = int(sentence.split("step ")[1].split(",")[0])
    last = read_json(root / "before" / "stopped" / "checkpoints" / "last" / "meta.json")
    assert last["position"]["total_steps"] == step


def test_a_killed_rank_is_named(broken):
    status, lines = broken["killed"]
    assert status == 1
    assert "was killed by SIGKILL" in lines[-1]


@pytest.mark.usefixtures("broken")
def test_the_runs_were_broken(root):
    for name in ENDS[:3]:
        assert not (root / "before" / name / "report.json").exists()
    assert any(step for _, step in positions(root / "before" / "killed")), "not in mid-day"
    lines = read_lines(root / "before" / "killed when scored" / "metrics.jsonl")
    assert [line["split"] for line in lines].count("prequential:20260103") == 1


@pytest.mark.parametrize("name", ENDS)
def test_every_checkpoint_is_that_of_an_unbroken_run(finished, tmp_path, name):
    for day in CHECKPOINTS:
        one, two = (finished / run / "checkpoints" / f"day={day}" for run in (name, "unbroken"))
        assert_same_checkpoint(one, two, scratch=tmp_path)
        assert read_json(one / "meta.json") == read_json(two / "meta.json")


@pytest.mark.parametrize("name", ENDS)
def test_the_report_is_that_of_an_unbroken_run(finished, name):
    one, two = (read_json(finished / run / "report.json") for run in (name, "unbroken"))
    assert one.keys() == two.keys()
    for key in one.keys() - {"seconds", "rows_per_second", "commit"}:  # the tree may have moved
        assert one[key] == two[key], key
    assert {row["split"] for row in one["metrics"]} == {"valid", "prequential"}


@pytest.mark.parametrize("name", ENDS)
def test_every_figure_is_logged_once(finished, name):
    one, two = (read_lines(finished / run / "metrics.jsonl") for run in (name, "unbroken"))
    keys, wanted = (
        Counter((line["step"], line["split"], line["name"]) for line in lines)
        for lines in (one, two)
    )
    assert keys == wanted
    assert set(keys.values()) == {1}
    values, others = (
        {(line["step"], line["name"]): line["value"] for line in lines if "auc" in line["name"]}
        for lines in (one, two)
    )
    assert values == others


def test_the_run_with_everything_on_was_broken_while_conversions_were_trained(root, finished):
    assert finished == root
    before = root / "before" / "full"
    last = read_json(before / "checkpoints" / "last" / "meta.json")
    # Days and steps: 20260101, then 20260102, then the first one's conversions.
    assert (last["day"], last["position"]["total_steps"]) == (20260101, 49)
    assert last["position"]["step"] == 9
    assert not (before / "report.json").exists()


def test_with_everything_on_a_broken_run_ends_as_an_unbroken_one(finished, tmp_path):
    for day in CHECKPOINTS:
        one, two = (
            finished / run / "checkpoints" / f"day={day}" for run in ("full", "full unbroken")
        )
        assert_same_checkpoint(one, two, scratch=tmp_path)
        assert read_json(one / "meta.json") == read_json(two / "meta.json")
    files = [
        {path.name: pq.read_table(path) for path in (finished / run / "scores").rglob("*.parquet")}
        for run in ("full", "full unbroken")
    ]
    assert files[0] == files[1]
    assert files[0]


def test_a_checkpoint_has_not_seen_the_conversions_of_its_day(finished, tmp_path):
    """Two worlds that differ in the conversions of 20260102 alone."""
    for day, same in zip(CHECKPOINTS, (True, True, False), strict=True):
        one, two = (
            tensors_of(finished / run / "checkpoints" / f"day={day}", at=tmp_path / "whole.pt")
            for run in ("full unbroken", "full other labels")
        )
        equal = all(torch.equal(value, two[name]) for name, value in one.items())
        assert equal == same, day
    losses = [
        {line["step"]: line["value"] for line in lines if line["name"] == "loss"}
        for lines in (
            read_lines(finished / run / "metrics.jsonl")
            for run in ("full unbroken", "full other labels")
        )
    ]
    # After 20 steps of 20260101, 20 of 20260102, its conversions' 20, and 20260103: the next are
    # the conversions of 20260102.
    assert sorted(losses[0]) == sorted(losses[1]) == [20, 40, 60, 80, 100]
    assert [losses[0][step] == losses[1][step] for step in (20, 40, 60, 80, 100)] == [
        True, True, True, True, False,
    ]  # fmt: skip
