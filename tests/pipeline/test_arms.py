"""Ways an upstream enters, each through the stage that users run; what a copy starts from."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lfm4ads.core.config import load_config
from lfm4ads.data.reader import Reader, ReaderConfig
from lfm4ads.model.lfm import Lfm
from lfm4ads.shard.sharded import ShardConfig, shard_model
from lfm4ads.shard.state import load_weights
from lfm4ads.stages import transfer
from lfm4ads.train import fit
from lfm4ads.train.fit import Fitter
from lfm4ads.train.lineage import open_lineage
from tests.gloo import run_ranks
from tests.pipeline.jobs import ROOT, SECONDS, do, run_jobs
from tests.pipeline.read import predictions, read_json

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(SECONDS + 100)]

ARMS = {
    "gate": "{gate: ['user.cr_*']}",
    "tokens": "{tokens: ['*']}",
    "both": "{adapter: ['user.*'], concat: ['item.*'], module: both}",
    "twin": "{copy: nothing}",
    "copied": "{copy: cross_cross_2}",
}


@pytest.fixture(scope="module")
def arms(story, tmp_path_factory):
    """One seed of every arm, on the ads scenarios 2 and 3 alone."""
    run = replace(story, folder=tmp_path_factory.mktemp("arms"))
    words = "{" + ", ".join(f"{name}: {arm}" for name, arm in ARMS.items()) + "}"
    names = list(read_json(story.transfer / "vanilla/seed-0/report.json")["metrics"])
    scenarios = sorted({row["scenario"] for row in names} - {"all"})[:2]
    one = run.transfer_job(
        input__pretrain=story.pretrain,
        input__reps=story.reps,
        arms=words,
        scenarios=f"[{', '.join(scenarios)}]",
        fit__max_epochs=1,
    )
    run_jobs(1, one)
    return run, scenarios


@pytest.mark.parametrize("arm", ARMS)
def test_every_way_trains_and_is_reported(arms, arm):
    run, scenarios = arms
    folder = run.transfer / arm / "seed-0"
    report = read_json(folder / "report.json")
    assert {row["scenario"] for row in report["metrics"]} == {*scenarios, "all"}
    scores = predictions(folder, "test")
    assert scores["logit_click"].to_numpy().std() > 0.01
    wanted = {
        "gate": {"user.cr_content_top_1", "user.cr_ads_top_1"},
        "both": {"user.ur", "user.cr_ads_top_1", "item.ir", "item.cr_content_top_1"},
        "twin": set(),
        "copied": set(),
    }
    assert wanted.get(arm, set()) <= set(report["representations"])
    assert bool(report["representations"]) == (arm not in ("twin", "copied"))
    assert (report["coverage"] is not None) == (arm in ("both", "twin", "copied"))
    if arm == "twin":
        assert report["coverage"]["copied"] == {}
    if arm == "copied":
        assert 0.5 < report["coverage"]["share"] < 1


def copied_body(ranks, words, day):
    """Return logits of a copy before any step, and of the upstream, on the same rows."""
    path = ROOT / "configs" / "transfer" / "debug.yaml"
    config = load_config(transfer.Config, [str(path), *words])
    setting = transfer._open(config, ranks)
    fitter = transfer._build(setting, arm="all", seed=0).fitter
    lineage = open_lineage(config.input.pretrain)
    model = Lfm(setting.dataset.schema, lineage.config)
    upstream = shard_model(model, config=ShardConfig(), ranks=ranks, seed=1)
    load_weights(setting.checkpoint, upstream)
    column = list(setting.dataset.schema.tasks).index("click")
    rows = ReaderConfig(batch_size=256, lanes=4, shuffle=False)
    reader = Reader(setting.dataset, config=rows, ranks=ranks, seed=0)
    fitter.sharded.model.eval()
    upstream.model.eval()
    with torch.no_grad():
        return [
            (
                fitter.sharded.model(batch)[:, 0].numpy(),
                upstream.model(batch).logits[:, column].numpy(),
            )
            for batch in reader.day(day)
        ]


def test_a_whole_copy_starts_at_the_upstreams_logits_bit_for_bit(story, tmp_path):
    run = replace(story, folder=tmp_path)
    one = run.transfer_job(
        input__pretrain=story.pretrain, input__reps=story.reps, arms="{all: {copy: everything}}"
    )
    for pairs in run_ranks(copied_body, 2, one.words, 20260103, seconds=SECONDS):
        assert len(pairs) == 2
        for own, upstream in pairs:
            np.testing.assert_array_equal(own, upstream)
            assert own.std() > 0.01


def rolling_body(ranks, one):
    """Return what a rolling run did, in order."""
    done = []
    train, score = Fitter._train_day, fit.score_pass

    def note_train(self, day, *, epoch, **words):
        done.append(("train", day))
        return train(self, day, epoch=epoch, **words)

    def note_score(batches, **words):
        days = []

        def noted():
            for batch in batches:
                days.append(batch.day)
                yield batch

        rows = score(noted(), **words)
        done.append(("score", days[0]))
        return rows

    Fitter._train_day, fit.score_pass = note_train, note_score
    assert do(ranks, [one]) == [None]
    return done


def test_a_rolling_run_scores_each_day_and_then_trains_on_it(story, tmp_path):
    run = replace(story, folder=tmp_path)
    words = {"input__pretrain": story.pretrain, "input__reps": story.reps, "only": "[vanilla]"}
    one = run.transfer_job(fit__rolling=True, fit__max_epochs=1, **words)
    (done,) = run_ranks(rolling_body, 1, one, seconds=SECONDS)
    base = [("train", 20260103), ("train", 20260104), ("score", 20260105)]
    assert done[:3] == base
    # The validation day once more for its predictions, then it is trained on; then the test day.
    rest = [("score", 20260105), ("train", 20260105), ("score", 20260106), ("train", 20260106)]
    assert done[3:] == rest
    plain, rolled = (predictions(one.transfer / "vanilla/seed-0", "test") for one in (story, run))
    assert plain["row_id"].equals(rolled["row_id"])
    assert not plain["logit_click"].equals(rolled["logit_click"])
