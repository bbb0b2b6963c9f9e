"""An experiment runs variants as programs, goes on with what is missing, says what failed."""

import json

import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.metrics.variants import FigureConfig
from lfm4ads.stages.experiment import Config, StudyConfig, run
from tests.pipeline.jobs import ROOT

ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))


@pytest.fixture
def config(data, tmp_path):
    return Config(
        output=tmp_path / "out",
        studies={
            "width": StudyConfig(
                config=ROOT / "configs" / "pretrain" / "debug.yaml",
                words=(f"data={data}", "days.last=20260103", "model.dropout=0.{seed}"),
                variants={"plain": [], "wide": ["model.tower.rep_dim=24"]},
            )
        },
        baseline="plain",
        seeds=(1,),
        parallel=2,
        figures={"click": FigureConfig(task="click")},
    )


def test_runs_are_those_of_the_stage_and_are_not_repeated(config, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    run(config, ALONE)
    folders = [config.output / name / "seed-1" for name in ("plain", "wide")]
    written = [(folder / "config.yaml").read_text() for folder in folders]
    assert ["dropout: 0.1" in text and "seed: 1" in text for text in written] == [True, True]
    assert ["rep_dim: 24" in text for text in written] == [False, True]
    kept = (folders[0] / "report.json").stat().st_mtime_ns
    (folders[1] / "report.json").unlink()
    before = json.loads((config.output / "report.json").read_text())
    run(config, ALONE)
    assert (folders[0] / "report.json").stat().st_mtime_ns == kept
    after = json.loads((config.output / "report.json").read_text())
    assert after["figures"] == before["figures"]
    assert capsys.readouterr().out.count("plain") == 2


def test_a_run_that_fails_is_told_with_its_own_sentence(config, monkeypatch):
    monkeypatch.chdir(ROOT)
    variants = config.studies["width"].variants
    variants["wide"].append("model.tower.rep_dim=-1")
    variants.pop("plain")
    with pytest.raises(UserError, match=r"1 of 1 runs failed: wide seed 1 \(.*rep_dim.*log\.txt\)"):
        run(config, ALONE)
