"""Independent tastes for two tasks: narrow shared tables transfer negatively, STEM's do not.

The toy of the paper note, with tables of width 4 for tastes of 3 dimensions.
"""

import numpy as np
import pytest

from lfm4ads.core.config import load_config
from lfm4ads.stages import comparable, pretrain
from tests.batches import one_rank
from tests.gloo import run_ranks
from tests.two_tastes import make_two_tastes

pytestmark = [pytest.mark.multiproc, pytest.mark.slow, pytest.mark.timeout(3600)]

SEEDS = (0, 1)
NETWORKS = ("single", "mmoe", "ple", "stem")
CONFIG = """
days: {first: 20260101, base_last: 20260101, last: 20260103, max_epochs: 12, frozen: true}
write_scores: true
reader: {batch_size: 256}
model:
  tower: {rep_dim: 0}
  multitask: {dim: 4, hidden: [32], gate_hidden: [16], shared_experts: 2}
  mix: {hidden: [16]}
shard: {optim: {sparse_lr: 0.5, dense_lr: 0.005}}
"""


def train(ranks, folder):
    for kind in NETWORKS:
        for seed in SEEDS:
            words = [
                f"data={folder / 'data'}",
                f"output={folder / 'runs' / kind / f'seed-{seed}'}",
                f"seed={seed}",
                f"model.multitask.kind={kind}",
                f"model.multitask.shared_experts={4 if kind == 'mmoe' else 2}",
            ]
            config = load_config(pretrain.Config, [str(folder / "config.yaml"), *words])
            pretrain.run(config, ranks)


@pytest.fixture(scope="module")
def lift(tmp_path_factory):
    """What each network has over single on comparable users, mean of tasks and seeds."""
    folder = tmp_path_factory.mktemp("tastes")
    make_two_tastes(folder / "data", 0)
    (folder / "config.yaml").write_text(CONFIG)
    run_ranks(train, 1, folder, seconds=3500)
    config = comparable.Config(
        runs=folder / "runs",
        data=folder / "data",
        output=folder / "study",
        baseline="single",
        days=comparable.StudyDays(test_first=20260103),
    )
    report = comparable.study_report(config, alone=one_rank())
    return {
        row["variant"]: row["delta_auc"]["mean"]
        for row in report["figures"]
        if row["bin"] == "comparable" and row["task"] == "mean" and row["delta_auc"]
    }


def test_narrow_shared_tables_lose_on_comparable_users(lift):
    assert lift["mmoe"] < -0.02
    assert lift["ple"] < -0.02


def test_tables_of_a_tasks_own_do_not(lift):
    assert lift["stem"] - lift["mmoe"] > 0.04
    assert np.isfinite(lift["stem"])
