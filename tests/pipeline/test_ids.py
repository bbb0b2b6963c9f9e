"""A managed user table with fewer rows than users, from pretrain to transfer."""

import json
import shutil
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
from lfm4ads.train.lineage import open_lineage
from tests.gloo import run_ranks
from tests.pipeline.conftest import Story
from tests.pipeline.jobs import ROOT, SECONDS, run_jobs
from tests.pipeline.read import predictions, read_json

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(SECONDS + 100)]

ROWS = 160
IDS = {"ways": 8, "half_life_steps": 20}


@pytest.fixture(scope="module")
def managed(data, tmp_path_factory):
    """The story of two arms, a copy among them, on users that are more than their rows."""
    folder = tmp_path_factory.mktemp("managed")
    shutil.copytree(data, folder / "data")
    path = folder / "data" / "schema.yaml"
    schema = path.read_text()
    user = "  user:\n    rows: 512\n    dim: 16\n    ids: hash\n"
    assert user in schema
    path.write_text(schema.replace(user, f"  user: {{rows: {ROWS}, dim: 16, ids: managed}}\n"))
    story = Story(folder / "data", folder)
    run_jobs(
        2,
        story.pretrain_job(shard__ids=IDS),
        story.dump_job(),
        story.transfer_job(arms="{sum: {concat: ['user.ur']}, all: {copy: everything}}"),
    )
    return story


def test_rates_of_every_day_are_written(managed):
    lines = map(json.loads, (managed.pretrain / "metrics.jsonl").read_text().splitlines())
    by_name = {}
    for line in lines:
        if line["name"].startswith("ids/user/"):
            by_name.setdefault(line["name"].removeprefix("ids/user/"), []).append(line["value"])
    assert {len(values) for values in by_name.values()} == {6}
    shares = zip(by_name["hits"], by_name["new"], by_name["overflow"], strict=True)
    assert all(sum(day) == pytest.approx(1) for day in shares)
    assert by_name["filled"][-1] > 0.9
    assert sum(by_name["evicted"]) > 0
    assert by_name["hits"][-1] > 0.2


def test_it_learns_and_every_arm_scores(managed):
    figures = [
        row["auc"]
        for row in read_json(managed.pretrain / "report.json")["metrics"]
        if row["task"] == "click" and row["scenario"] == "all" and row["split"] == "prequential"
    ]
    assert np.mean(figures) > 0.55
    for arm in ("sum", "all"):
        scores = predictions(managed.transfer / arm / "seed-0", "test")
        assert scores["logit_click"].to_numpy().std() > 0.01


def copied_body(ranks, words, day):
    """Return logits of a copy before any step, and of the upstream, on the same rows."""
    path = ROOT / "configs" / "transfer" / "debug.yaml"
    config = load_config(transfer.Config, [str(path), *words])
    setting = transfer._open(config, ranks)
    fitter = transfer._build(setting, arm="all", seed=0).fitter
    lineage = open_lineage(config.input.pretrain)
    model = Lfm(setting.dataset.schema, lineage.config)
    upstream = shard_model(model, config=ShardConfig(ids=lineage.ids), ranks=ranks, seed=1)
    column = list(setting.dataset.schema.tasks).index("click")
    rows = ReaderConfig(batch_size=256, lanes=4, shuffle=False)
    reader = Reader(setting.dataset, config=rows, ranks=ranks, seed=0)
    fitter.sharded.model.eval()
    upstream.model.eval()
    found = []
    for load in (False, True):
        if load:
            load_weights(setting.checkpoint, upstream)
        with torch.no_grad():
            batch = next(reader.day(day))
            own = fitter.sharded.model(batch)[:, 0].numpy()
            found.append((own, upstream.model(batch).logits[:, column].numpy()))
    (maps,) = fitter.sharded.maps.values()
    return found, int((maps.state()["user.row_ids"].values >= 0).sum())


def test_a_whole_copy_takes_the_map_along(managed, tmp_path):
    run = replace(managed, folder=tmp_path)
    one = run.transfer_job(
        input__pretrain=managed.pretrain,
        input__reps=managed.reps,
        arms="{all: {copy: everything}}",
    )
    for (before, after), filled in run_ranks(copied_body, 2, one.words, 20260103, seconds=SECONDS):
        assert not np.array_equal(*before)
        np.testing.assert_array_equal(*after)
        assert after[0].std() > 0.01
        assert filled > 30
