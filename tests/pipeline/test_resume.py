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

import pytest

from tests.gloo import run_ranks
from tests.pipeline.jobs import (
    ROOT,
    SECONDS,
    assert_same_checkpoint,
    do_until_scored,
    job,
    run_jobs,
)
from tests.pipeline.read import read_json, read_lines
from tests.worlds import write_tiny

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(2 * SECONDS)]

CHECKPOINTS = (20260101, 20260102, 20260103)
ENDS = ("stopped", "killed", "killed when scored", "extended")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    write_tiny(folder / "data", days=3, rows=640, row_group_rows=128)
    return folder


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
    run_jobs(2, pretrain(root, "unbroken"), *again, pretrain(root, "extended", extend=True))
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
    for key in one.keys() - {"seconds"}:
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
