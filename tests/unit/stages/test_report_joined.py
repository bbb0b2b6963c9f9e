"""Runs told one scenario each are one run; curves are the lifts of their arms."""

import json
import shutil

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.stages.report import Config, run
from tests.unit.analysis.planted import plant

ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))
SCENARIOS = ("0", "1", "2")
SEEDS = (0, 1)


def split_by_scenario(planted, folder):
    """Copy the runs into a folder a scenario, each with the rows of its own."""
    for scenario in SCENARIOS:
        for path in sorted(planted.runs.glob("*/seed-*")):
            target = folder / scenario / path.relative_to(planted.runs)
            shutil.copytree(path, target)
            for file in target.glob("predictions/*/*.parquet"):
                table = pq.ParquetFile(file).read()
                pq.write_table(table.filter(pc.equal(table["scenario"], int(scenario))), file)
            told(target, scenarios=[scenario])


def told(folder, **fields):
    path = folder / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture
def world(tmp_path):
    planted = plant(tmp_path / "whole", num_rows=900, seeds=SEEDS)
    split_by_scenario(planted, tmp_path / "split")
    return planted


def config_of(tmp_path, *, scenarios=SCENARIOS, **words):
    runs = tuple(tmp_path / "split" / scenario for scenario in scenarios)
    return Config(runs=runs, output=tmp_path / "out", **words)


def test_joined_scenarios_equal_a_plain_loop_of_aucs(world, tmp_path, capsys):
    curves = {"line": ["adapter", "same"], "base": ["vanilla"]}
    run(config_of(tmp_path, curves=curves, min_positives=5), ALONE)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    aucs = {}
    for arm in ("vanilla", "adapter", "same"):
        for scenario in SCENARIOS:
            for seed in SEEDS:
                table = world.tables[arm, seed, "test"]
                rows = table.filter(pc.equal(table["scenario"], int(scenario)))
                labels, logits = rows["label_click"].to_numpy(), rows["logit_click"].to_numpy()
                aucs[arm, scenario, seed] = roc_auc_score(labels, logits)
    for row in report["means"]:
        if (row["task"], row["split"]) == ("click", "test") and row["scenario"] != "all":
            names = SCENARIOS if row["scenario"] == "mean" else (row["scenario"],)
            plain = np.mean([aucs[row["arm"], name, seed] for name in names for seed in SEEDS])
            assert row["auc"] == pytest.approx(plain, abs=1e-9)
    lifts = {(row["arm"], row["task"], row["scenario"]): row for row in report["lifts"]}
    mean = lifts["adapter", "click", "mean"]
    plain = [aucs["adapter", *at] - aucs["vanilla", *at] for _, *at in aucs][:6]
    assert mean["delta_auc"] == pytest.approx(np.mean(plain), abs=1e-9)
    for row in report["curves"]:
        for point in row["points"]:
            lift = lifts.get((point["arm"], row["task"], row["scenario"]))
            wanted = lift or {"delta_auc": 0.0, "low": None, "high": None}
            assert all(point[name] == wanted[name] for name in ("delta_auc", "low", "high"))
    assert {row["scenario"] for row in report["curves"]} == {"all", "mean", *SCENARIOS}
    assert len(report["runs"]) == 3 * 2 * 3
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("adapter"))
    assert f"{mean['delta_auc']:+.4f}  [{mean['low']:+.4f}, {mean['high']:+.4f}]" in line
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Curves by layer" in page
    pictures = {path.stem for path in (tmp_path / "out" / "figures").glob("curves-click-*.svg")}
    assert pictures == {f"curves-click-{name}" for name in ("mean", *SCENARIOS)}


def test_joined_folders_equal_one_folder(world, tmp_path):
    """Scenario 3 has too few positives for an AUC; without it both hold the same rows."""
    for file in world.runs.glob("*/seed-*/predictions/*/*.parquet"):
        table = pq.ParquetFile(file).read()
        pq.write_table(table.filter(pc.not_equal(table["scenario"], 3)), file)
    run(config_of(tmp_path), ALONE)
    run(Config(runs=(world.runs,), output=tmp_path / "one"), ALONE)
    one, joined = (
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "out")
    )
    for name in ("arms", "means", "lifts"):
        assert one[name] == joined[name]


@pytest.mark.usefixtures("world")
def test_what_cannot_be_joined_is_refused(tmp_path):
    folder = tmp_path / "split" / "1" / "adapter"
    told(folder / "seed-0", scenarios=["0"])
    with pytest.raises(UserError, match="both hold adapter/seed-0 of scenario 0; list only one of"):
        run(config_of(tmp_path), ALONE)
    told(folder / "seed-0", scenarios=[])
    with pytest.raises(UserError, match="both hold adapter/seed-0; list only one of them in runs"):
        run(config_of(tmp_path), ALONE)
    shutil.rmtree(folder / "seed-0")
    sentence = r"scored other valid rows than .* in common, the others in scenarios 1\); train both"
    with pytest.raises(UserError, match=sentence):
        run(config_of(tmp_path), ALONE)


@pytest.mark.usefixtures("world")
def test_a_curve_of_an_unknown_arm_is_refused(tmp_path):
    with pytest.raises(UserError, match="curve line names gone, which is no arm of the runs"):
        run(config_of(tmp_path, curves={"line": ["gone"]}), ALONE)
