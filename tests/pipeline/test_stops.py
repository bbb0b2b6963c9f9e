"""SIGTERM to one rank stops any stage on all ranks, and the same command ends as if never stopped.

So does a disk that is full when predictions are written.
"""

import os
import resource
import signal
from dataclasses import replace

import pytest

from lfm4ads.data.manifest import available_days
from lfm4ads.stages import retrieve, select
from lfm4ads.train import candidates, retrieved, scores
from lfm4ads.train.fold import Folding
from lfm4ads.train.scores import ScoreFile
from tests.gloo import run_ranks
from tests.pipeline.jobs import SECONDS, STAGES, do, job
from tests.pipeline.read import read_json
from tests.pipeline.test_dump_killed import files_of

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(2 * SECONDS)]

MOMENTS = {
    "an event is folded": (Folding, "_take_towers"),
    "a batch is scored": (scores.Scores, "update"),
    "a list is judged": (retrieved.RetrievedScores, "update"),
    "candidates are read": (candidates, "_day"),
}


def do_stopped(ranks, one, moment, nth):
    """Run a job of which rank 1 is sent SIGTERM at the nth call of something."""
    STAGES.update(retrieve=retrieve, select=select)
    owner, name = MOMENTS[moment]
    then, calls = getattr(owner, name), []

    def tell(*args, **words):
        calls.append(1)
        if len(calls) == nth and ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return then(*args, **words)

    setattr(owner, name, tell)
    with ranks.stop.listening():
        return do(ranks, [one])


def do_all(ranks, jobs):
    STAGES.update(retrieve=retrieve, select=select)
    return do(ranks, jobs)


def run_well(*jobs):
    for results in run_ranks(do_all, 2, jobs, seconds=SECONDS):
        assert results == [None] * len(jobs)


def stop(one, moment, nth):
    """Stop a job; return the sentence, which is the same on both ranks."""
    (first,), (second,) = run_ranks(do_stopped, 2, one, moment, nth, seconds=SECONDS)
    assert first == second
    sentence, everywhere = first
    assert everywhere
    assert sentence.startswith("stopped by a signal")
    assert "run the same command" in sentence
    return sentence


def said(report):
    """Return what a report says, without times and words."""
    return {
        name: value
        for name, value in read_json(report).items()
        if "second" not in name and name not in ("command", "commit")
    }


def test_dump(story, tmp_path):
    stopped = replace(story, folder=tmp_path)
    one = stopped.dump_job(pretrain=story.pretrain)
    stop(one, "an event is folded", 10)
    assert len(available_days(stopped.reps, story.version)) < 5
    run_well(one)
    assert files_of(stopped.reps) == files_of(story.reps)


def test_pretrain_while_it_scores(story, tmp_path):
    stopped = replace(story, folder=tmp_path)
    stop(stopped.pretrain_job(), "a batch is scored", 3)
    meta = read_json(stopped.pretrain / "checkpoints" / "last" / "meta.json")
    assert meta["position"]["total_steps"] > 0, "what was trained is saved"
    run_well(stopped.pretrain_job())
    assert said(stopped.pretrain / "report.json") == said(story.pretrain / "report.json")


def test_transfer_while_it_scores(story, tmp_path):
    stopped = replace(story, folder=tmp_path)
    folders = {"input__pretrain": story.pretrain, "input__reps": story.reps}
    one = stopped.transfer_job(only="[vanilla, sum]", **folders)
    stop(one, "a batch is scored", 2)
    assert list(stopped.transfer.glob("*/seed-0/report.json")) == []
    run_well(one)
    for arm in ("vanilla", "sum"):
        mine, theirs = (run.transfer / arm / "seed-0/report.json" for run in (stopped, story))
        assert said(mine) == said(theirs)


def test_retrieve_while_lists_are_judged(story, tmp_path):
    def one(name):
        arms = "{ir_ur: {query: [user.ur]}}"
        folders = {"input__data": story.data, "input__reps": story.reps}
        return job("retrieve", **folders, arms=arms, output=tmp_path / name, seeds=[0])

    stop(one("stopped"), "a list is judged", 1)
    assert not (tmp_path / "stopped" / "ir_ur" / "seed-0" / "report.json").exists()
    run_well(one("stopped"), one("calm"))
    mine, theirs = (tmp_path / name / "ir_ur/seed-0/report.json" for name in ("stopped", "calm"))
    assert said(mine)["lists"] == said(theirs)["lists"]


def test_select(story, tmp_path):
    own = {"data": story.data, "reps": story.reps, "output": tmp_path / "select", "size": 1}
    stop(job("select", **own), "candidates are read", 1)
    assert not (tmp_path / "select" / "features.yaml").exists()
    run_well(job("select", **own))
    assert (tmp_path / "select" / "features.yaml").exists()


def do_with_a_full_disk(ranks, one):
    """Run a job of which rank 1 can write no more than 100 bytes of predictions."""
    update = ScoreFile.update
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def update_on_a_full_disk(self, logits, batch):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 if ranks.rank == 1 else soft, hard))
        update(self, logits, batch)

    ScoreFile.update = update_on_a_full_disk
    try:
        return do(ranks, [one])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_while_predictions_are_written(story, tmp_path):
    full = replace(story, folder=tmp_path)
    folders = {"input__pretrain": story.pretrain, "input__reps": story.reps}
    one = full.transfer_job(only="[vanilla]", **folders)
    (first,), (second,) = run_ranks(do_with_a_full_disk, 2, one, seconds=SECONDS)
    assert first == second
    sentence, everywhere = first
    assert everywhere
    assert "part-00001.parquet" in sentence
    assert "File too large" in sentence
    assert list(full.transfer.rglob("part-*")) == [], "none looks finished"
    run_well(one)
    mine, theirs = (run.transfer / "vanilla/seed-0/report.json" for run in (full, story))
    assert said(mine) == said(theirs)
