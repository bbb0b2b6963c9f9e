"""200 steps, killed at random ones and started again, are the 200 steps of a calm run.

The users' table is managed and smaller than its users, the others are hashed.
"""

import os
import random
import signal

import pytest

from lfm4ads.shard.sharded import Sharded
from tests.gloo import run_ranks
from tests.pipeline.jobs import SECONDS, assert_same_checkpoint, do, job, run_jobs
from tests.pipeline.read import read_json, read_lines
from tests.worlds import SCHEMA, write_tiny

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(3 * SECONDS)]
STEPS, SAVE_EVERY = 200, 7
POINTS = random.Random(20260105).sample(range(1, STEPS), 10)
DAYS = (20260101, 20260102)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    managed = "  user: {rows: 24, dim: 8, ids: managed}\n"
    schema = SCHEMA.replace("  user: {rows: 64, dim: 8}\n", managed)
    assert managed in schema
    write_tiny(folder / "data", days=2, rows=3200, row_group_rows=256, schema=schema)
    run_jobs(2, pretrain(folder, "calm", save_every_steps=0))
    assert read_json(folder / "calm" / "report.json")["steps"] == STEPS
    evicted = [
        line["value"]
        for line in read_lines(folder / "calm" / "metrics.jsonl")
        if line["name"] == "ids/user/evicted"
    ]
    assert all(rows > 0 for rows in evicted)
    assert len(evicted) == len(DAYS)
    return folder


def pretrain(root, name, **words):
    """Two days of 100 shuffled steps, each day scored before it is trained on."""
    own = {
        "data": root / "data",
        "output": root / name,
        "days__first": DAYS[0],
        "days__base_last": DAYS[0],
        "days__last": DAYS[1],
        "reader__batch_size": 32,
        "reader__window_rows": 64,
        "save_every_steps": SAVE_EVERY,
        "shard__ids": {"ways": 4, "half_life_steps": 20},
    }
    return job("pretrain", **(own | words))


def do_until_step(ranks, one, count, victim):
    """Run a job one of whose ranks is killed after its ``count``-th step from here."""
    step, steps = Sharded.step, []

    def step_and_die(self, loss):
        step(self, loss)
        steps.append(1)
        if len(steps) == count and ranks.rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)

    Sharded.step = step_and_die
    return do(ranks, [one])


def done(run):
    """Return the step from which a run would go on."""
    metas = [read_json(path) for path in run.glob("checkpoints/[dlp]*/meta.json")]
    return max((meta["position"]["total_steps"] for meta in metas), default=0)


def kill_at(root, name, point, **words):
    """Run until a step is done, from wherever the run stands."""
    saved = done(root / name)
    with pytest.raises(AssertionError, match=r"died or hung|onnection"):
        run_ranks(
            do_until_step, 2, pretrain(root, name, **words), point - saved, point % 2,
            seconds=SECONDS,
        )  # fmt: skip
    at = done(root / name)
    # What was being written when the rank died may be lost, and nothing before it.
    assert point - 2 * SAVE_EVERY <= at <= point
    return at


def assert_as_calm(root, name, scratch):
    for day in DAYS:
        one, two = (root / run / "checkpoints" / f"day={day}" for run in (name, "calm"))
        assert_same_checkpoint(one, two, scratch=scratch)
        assert read_json(one / "meta.json") == read_json(two / "meta.json")
    figures = [
        {
            (line["step"], line["split"], line["name"]): line["value"]
            for line in read_lines(root / run / "metrics.jsonl")
            if "auc" in line["name"]
        }
        for run in (name, "calm")
    ]
    assert figures[0] == figures[1]
    assert figures[0]
    reports = [read_json(root / run / "report.json") for run in (name, "calm")]
    assert reports[0]["metrics"] == reports[1]["metrics"]


def test_killed_twice_and_torn(root, tmp_path):
    """After the second kill a bit of the newest checkpoint is wrong; the one before it serves."""
    words = {"save__asynchronous": True}
    kept = [kill_at(root, "twice", point, **words) for point in sorted(POINTS[4:6])]
    assert kept[0] > 0
    assert all(at % 100 for at in kept), "a kill was not in mid-day"
    newest = root / "twice" / "checkpoints" / "last"
    assert read_json(newest / "meta.json")["position"]["total_steps"] == kept[1]
    before = read_json(newest.with_name("previous") / "meta.json")["position"]["total_steps"]
    assert before == kept[1] - SAVE_EVERY
    raw = bytearray((newest / "__0_0.distcp").read_bytes())
    raw[len(raw) // 2] ^= 1
    (newest / "__0_0.distcp").write_bytes(raw)
    run_jobs(2, pretrain(root, "twice", **words))
    assert_as_calm(root, "twice", tmp_path)
    assert (root / "twice" / "checkpoints" / ".last.broken").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "point"), list(enumerate(POINTS)))
def test_killed_at_a_random_step(root, tmp_path, number, point):
    name, words = f"at {point}", {"save__asynchronous": number % 2 == 0}
    kill_at(root, name, point, **words)
    run_jobs(2, pretrain(root, name, **words))
    assert_as_calm(root, name, tmp_path)


def test_days_beyond_the_last_ones_are_removed(root):
    run_jobs(2, pretrain(root, "few", save__keep_last=1, save__asynchronous=True))
    names = sorted(one.name for one in (root / "few" / "checkpoints").iterdir())
    assert names == [f"day={DAYS[1]}", "last", "previous"]


def do_until_told(ranks, one, count):
    """Run a job whose ranks are told to stop in their ``count``-th step."""
    step, steps = Sharded.step, []

    def step_and_stop(self, loss):
        step(self, loss)
        steps.append(1)
        if len(steps) == count:
            ranks.stop._event.set()

    Sharded.step = step_and_stop
    return do(ranks, [one])


def test_a_stop_finishes_what_is_being_written(root):
    one = pretrain(root, "told", save__asynchronous=True)
    for ((sentence, everywhere),) in run_ranks(do_until_told, 2, one, 14, seconds=SECONDS):
        assert "stopped by a signal at step 14" in sentence
        assert everywhere
    checkpoints = root / "told" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["last", "previous"]
    assert done(root / "told") == 14
    assert not list(checkpoints.glob(".*"))
