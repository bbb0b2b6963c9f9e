"""An experiment runs variants as programs, goes on with what is missing, says what failed."""

import json
import re
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.metrics.variants import FigureConfig
from lfm4ads.stages.experiment import Config, StudyConfig, run
from tests.pipeline.jobs import ROOT, SECONDS
from tests.pipeline.read import predictions

SCORES = "write_scores=true"
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


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_an_experiment_may_end_with_the_comparable_study(config, data, monkeypatch):
    """The study reads what the runs left; the row counts are those of their scores."""
    monkeypatch.chdir(ROOT)
    words = [f"data={data}", "runs={output}", "output={output}/comparable", "overwrite=true"]
    told = {
        "study": replace(config.studies["width"], words=(*config.studies["width"].words, SCORES))
    }
    after = {"comparable": ["comparable", "configs/comparable/debug.yaml", *words]}
    config = replace(config, studies=told, after=after)
    run(config, ALONE)
    report = json.loads((config.output / "comparable" / "report.json").read_text())
    assert report["train_days"] == [20260101, 20260102]
    assert report["test_days"] == [20260103]
    (pair,) = report["pairs"]
    assert pair["tasks"] == ["click", "long_view"]
    clicks = sum(one["rows"]["click"] for one in pair["bins"])
    folder = config.output / "plain" / "seed-1" / "scores" / "day=20260103"
    table = pa.concat_tables([pq.read_table(path) for path in sorted(folder.iterdir())])
    assert clicks == table["label_click"].drop_null().length() > 0
    runs = json.loads((config.output / "report.json").read_text())["cost"]
    assert all(value > 0 for cost in runs.values() for value in cost["rows_per_second"])
    assert (config.output / "after" / "comparable.txt").exists()


def test_a_run_that_fails_is_told_with_its_own_sentence(config, monkeypatch):
    monkeypatch.chdir(ROOT)
    variants = config.studies["width"].variants
    variants["wide"].append("model.tower.rep_dim=-1")
    variants.pop("plain")
    with pytest.raises(UserError, match=r"1 of 1 runs failed: wide seed 1 \(.*rep_dim.*log\.txt\)"):
        run(config, ALONE)


SCENARIOS = ("moments", "channels")


@pytest.fixture(scope="module")
def arms(story, tmp_path_factory):
    """Two arms in two scenarios beside a retriever, run once."""
    config = ROOT / "configs" / "transfer" / "debug.yaml"
    path = tmp_path_factory.mktemp("arms") / "two.yaml"
    path.write_text(f"{config.read_text()}\narms: {{vanilla: {{}}, sum: {{concat: [user.ur]}}}}\n")
    retriever = path.with_name("retriever.yaml")
    text = (ROOT / "configs" / "retrieve" / "debug.yaml").read_text()
    retriever.write_text(re.sub(r"^  ir_.*\n", "", text, flags=re.MULTILINE))
    inputs = {"data": story.data, "reps": story.reps}
    features = [f"input.{name}={folder}" for name, folder in inputs.items()]
    return Config(
        output=path.parent / "out",
        studies={
            "features": StudyConfig(
                stage="transfer",
                config=path,
                words=(*features, f"input.pretrain={story.pretrain}", "fit.max_epochs=1"),
            ),
            "retrieval": StudyConfig(
                stage="retrieve",
                config=retriever,
                words=(*features, "fit.max_epochs=1", "lists={ks: [5], write: false}"),
            ),
        },
        scenarios=SCENARIOS,
        baseline="vanilla",
        seeds=(0,),
        curves={"reads": ["vanilla", "sum"]},
        parallel=2,
    )


@pytest.mark.multiproc
@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_arms_of_two_stages_are_run_joined_and_gone_on_with(arms, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    run(arms, ALONE)
    report = json.loads((arms.output / "report.json").read_text())
    told = {row["arm"]: set() for row in report["runs"]}
    for row in report["runs"]:
        told[row["arm"]] |= set(row["scenarios"])
    names = {"vanilla", "sum", "retriever"}
    assert told == {name: set(SCENARIOS) for name in names}
    for row in report["arms"]:
        if row["split"] == "test" and row["scenario"] != "all":
            scenario = SCENARIOS[int(row["scenario"]) - 2]
            study = "features" if row["arm"] in ("vanilla", "sum") else "retrieval"
            folder = arms.output / study / f"scenario={scenario}" / row["arm"] / "seed-0"
            table = predictions(folder, "test")
            auc = roc_auc_score(table["label_click"].to_numpy(), table["logit_click"].to_numpy())
            assert row["auc"] == pytest.approx(auc, abs=1e-9)
    lifts = {(row["arm"], row["scenario"]): row["delta_auc"] for row in report["lifts"]}
    for row in report["curves"]:
        assert row["points"][1]["delta_auc"] == lifts["sum", row["scenario"]]
    assert capsys.readouterr().out == (arms.output / "table.txt").read_text()

    runs = sorted(arms.output.glob("*/scenario=*/*/seed-0/report.json"))
    times = {path: path.stat().st_mtime_ns for path in runs}
    lost = arms.output / "features" / "scenario=channels" / "sum" / "seed-0"
    shutil.rmtree(lost)
    two = arms.studies["features"].config
    two.write_text(two.read_text().replace("vanilla: {}", "vanilla: {}, gate: {gate: [user.ur]}"))
    run(arms, ALONE)
    again = sorted(arms.output.glob("*/scenario=*/*/seed-0/report.json"))
    made = {path for path in again if times.get(path) != path.stat().st_mtime_ns}
    features = arms.output / "features"
    gates = {features / f"scenario={name}" / "gate" / "seed-0" for name in SCENARIOS}
    assert {path.parent for path in made} == {lost, *gates}

    two.write_text(two.read_text().replace("lanes: 4", "lanes: 2"))
    with pytest.raises(
        UserError, match=r"2 of 2 runs failed: .*vanilla.* already holds a finished"
    ):
        run(arms, ALONE)
