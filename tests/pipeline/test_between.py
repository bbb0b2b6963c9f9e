"""Runs that weigh tasks against each other: killed, gone back to their best pass, and logged."""

import pytest

from tests.gloo import run_ranks
from tests.pipeline.jobs import SECONDS, assert_same_checkpoint, do_until_saved, job, run_jobs
from tests.pipeline.read import read_json, read_lines
from tests.worlds import write_tiny

pytestmark = [pytest.mark.multiproc, pytest.mark.slow, pytest.mark.timeout(2 * SECONDS)]
DAYS = (20260101, 20260102)
TASKS = ("click", "long_view", "conversion")


def pretrain(root, name, **words):
    """Two passes over a base of 10 steps, at rates that spoil the second, and another day."""
    own = {
        "data": root / "data",
        "output": root / name,
        "days__first": DAYS[0],
        "days__base_last": DAYS[0],
        "days__last": DAYS[1],
        "days__max_epochs": 2,
        "days__wait_days": {"conversion": 1},
        "reader__batch_size": 64,
        "save_every_steps": 4,
        "monitor": "click",
        "shard__optim": {"sparse_lr": 5.0, "dense_lr": 0.1},
        "loss__between": {"kind": "gradnorm", "rate": 0.05},
    }
    return job("pretrain", **(own | words))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("between")
    write_tiny(folder / "data", days=2, rows=640, row_group_rows=128)
    with pytest.raises(AssertionError, match="died or hung"):
        run_ranks(do_until_saved, 1, pretrain(folder, "killed"), "train", seconds=SECONDS)
    assert not (folder / "killed" / "report.json").exists()
    pcgrad = pretrain(folder, "pcgrad", days__max_epochs=1, loss__between={"kind": "pcgrad"})
    run_jobs(1, pretrain(folder, "killed"), pretrain(folder, "calm"), pcgrad)
    return folder


def position(root, run, name):
    return read_json(root / run / "checkpoints" / name / "meta.json")["position"]


def test_a_killed_run_ends_as_a_calm_one_in_weights_and_state(root, tmp_path):
    for day in DAYS:
        one, two = (root / run / "checkpoints" / f"day={day}" for run in ("killed", "calm"))
        assert_same_checkpoint(one, two, scratch=tmp_path)
        assert read_json(one / "meta.json") == read_json(two / "meta.json")
    first, last = (position(root, "calm", f"day={day}")["between"] for day in DAYS)
    assert first["value_T"] != last["value_T"]


def test_the_best_pass_brings_its_weights_back(root):
    best, base = position(root, "calm", "best"), position(root, "calm", "day=20260101")
    assert best["best_epoch"] == base["best_epoch"]
    assert base["total_steps"] > best["total_steps"], "a pass was trained after the best"
    assert base["between"] == best["between"]


def test_every_day_says_how_tasks_were_weighed(root):
    for run in ("calm", "pcgrad"):
        lines = read_lines(root / run / "metrics.jsonl")
        trained = {line["step"] for line in lines if line["name"] == "loss"}
        found = {
            task: {
                line["step"]: line["value"] for line in lines if line["name"] == f"weight/{task}"
            }
            for task in TASKS
        }
        shares = [line["value"] for line in lines if line["name"] == "task_conflicts"]
        assert found["click"].keys() | found["conversion"].keys() == trained
        assert found["click"].keys().isdisjoint(found["conversion"]), "conversions come late"
        assert all(value > 0 for values in found.values() for value in values.values())
        assert shares
        assert all(0 <= share <= 1 for share in shares)
    assert all(value >= 1 for values in found.values() for value in values.values())
