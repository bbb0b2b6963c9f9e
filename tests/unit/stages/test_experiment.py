"""Experiments: figures of planted runs, and what is told of a wrong config."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.metrics.variants import FigureConfig
from lfm4ads.stages import experiment
from lfm4ads.stages.experiment import Config, StudyConfig, run

ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))
AUCS = {("plain", 0): 0.6, ("plain", 1): 0.62, ("better", 0): 0.64, ("better", 1): 0.68}


def rows_of(auc):
    """Two days and scenarios of a task, and what a figure must leave out."""
    days = [(1, "0", auc - 0.3, 50), (2, "0", auc, 30), (2, "1", auc + 0.1, 10)]
    rows = [
        {"day": day, "scenario": scenario, "auc": value, "positives": positives}
        for day, scenario, value, positives in days
    ]
    rows += [{"day": 2, "scenario": "all", "auc": 0.99, "positives": 1000}]
    rows += [{"day": 2, "scenario": "2", "auc": None, "positives": 0}]
    rows = [{"task": "click", "split": "prequential", **row} for row in rows] + [
        {"task": "click", "split": "valid", "day": 2, "scenario": "0", "auc": 0.1, "positives": 99},
        {**rows[1], "task": "like", "split": "prequential", "auc": 0.2},
    ]
    # Rows are not in proportion to positives, so a wrong weight shows.
    sizes = {"0": 100, "1": 300, "2": 50, "all": 9000}
    return [
        {**row, "gauc": row["auc"] and row["auc"] - 0.05, "rows": sizes[row["scenario"]]}
        for row in rows
    ]


@pytest.fixture
def config(tmp_path):
    """An experiment whose runs are all there."""
    for (variant, seed), auc in AUCS.items():
        folder = tmp_path / "out" / variant / f"seed-{seed}"
        folder.mkdir(parents=True)
        report = {
            "metrics": rows_of(auc),
            "num_parameters": {"tables": 1000, "dense": 10},
            "seconds": 4.0 if variant == "better" else 2.0,
            "rows_per_second": (1500.0 if variant == "better" else 2000.0) + seed,
        }
        (folder / "report.json").write_text(json.dumps(report))
    return Config(
        output=tmp_path / "out",
        studies={
            "ablation": StudyConfig(
                config=tmp_path / "none.yaml", variants={"plain": [], "better": ["seed=1"]}
            )
        },
        baseline="plain",
        seeds=(0, 1),
        figures={"late": FigureConfig(task="click", first_day=2)},
    )


def test_a_figure_is_the_mean_of_chosen_rows_by_positives(config, capsys):
    run(config, ALONE)
    report = json.loads((config.output / "report.json").read_text())
    plain, better = report["figures"]
    assert plain["values"] == pytest.approx([0.6 + 0.1 / 4, 0.62 + 0.1 / 4])
    assert plain["lift"] is None
    assert better["lift"]["mean"] == pytest.approx(0.05)
    assert (better["lift"]["low"], better["lift"]["high"]) == pytest.approx(
        (0.05 - 12.7062 * 0.01, 0.05 + 12.7062 * 0.01), rel=1e-4
    )
    table = capsys.readouterr().out
    assert table == (config.output / "table.txt").read_text()
    line = next(line for line in table.splitlines() if "better" in line)
    assert "0.6850 +0.0500 [-0.0771, +0.1771]" in line
    # Time and speed against those of the first variant.
    assert line.split()[-3:] == ["2.00", "1,500", "0.75"]
    assert report["cost"]["better"]["rows_per_second"] == [1500, 1501]


def test_a_run_that_did_not_report_its_speed_has_a_dash(config, capsys):
    path = config.output / "better" / "seed-1" / "report.json"
    told = json.loads(path.read_text())
    told.pop("rows_per_second")
    path.write_text(json.dumps(told))
    run(config, ALONE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[-3:] == ["1.00", "2,000", "1.00"]
    assert lines[3].split()[-3:] == ["2.00", "\N{EN DASH}", "\N{EN DASH}"]


def test_gauc_is_weighted_by_rows(config):
    figures = {"within": FigureConfig(task="click", measure="gauc", first_day=2)}
    run(replace(config, figures=figures), ALONE)
    report = json.loads((config.output / "report.json").read_text())
    assert report["figures"][0]["values"] == pytest.approx([0.55 + 0.075, 0.57 + 0.075])
    with pytest.raises(UserError, match="the runs have no GAUC of task buy"):
        run(replace(config, figures={"x": FigureConfig(task="buy", measure="gauc")}), ALONE)


def test_scenarios_can_be_chosen(config):
    figures = {"one": FigureConfig(task="click", scenarios=("1",))}
    run(replace(config, figures=figures), ALONE)
    report = json.loads((config.output / "report.json").read_text())
    assert report["figures"][0]["values"] == pytest.approx([0.7, 0.72])


def test_a_figure_the_runs_do_not_have_is_one_sentence(config):
    figures = {"buy": FigureConfig(task="buy")}
    with pytest.raises(UserError, match="the runs have no AUC of task buy, split prequential, sce"):
        run(replace(config, figures=figures), ALONE)


def test_runs_of_other_words_are_not_taken_for_these(config):
    run(config, ALONE)
    (config.output / "better" / "seed-1" / "words.txt").write_text("-m launch.pretrain other.yaml")
    with pytest.raises(UserError, match=r"better/seed-1 holds a run of other words or another con"):
        run(config, ALONE)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"baseline": "worse"}, "baseline worse is none of plain, better"),
        ({"seeds": ()}, "at least one study and one seed"),
        ({"figures": {}}, "pretrain needs at least one figure"),
        ({"parallel": 0}, "ranks and parallel must be at least 1"),
    ],
)
def test_impossible_experiments_are_refused(config, words, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(config, **words)


def test_a_row_of_the_table_is_a_variant_and_a_column_a_figure(config, capsys):
    figures = {"late_days": FigureConfig(task="click", first_day=2), **config.figures}
    run(replace(config, figures=figures), ALONE)
    lines = capsys.readouterr().out.splitlines()
    header = ["variant", "late", "days", "late", "in", "tables", "dense", "time", "rows/s", "speed"]
    assert lines[0].split() == header
    assert [line.split()[0] for line in lines[2:]] == ["plain", "better"]
    assert lines[3].count("0.6850 +0.0500 [-0.0771, +0.1771]") == 2


@pytest.fixture
def arms(tmp_path):
    """An experiment of arms."""
    study = StudyConfig(stage="transfer", config=tmp_path / "arms.yaml", words=("data={output}/d",))
    return Config(
        output=tmp_path / "out",
        steps={"prepare": ["prepare", "data.yaml", "source={source}", "output={output}/d"]},
        studies={"features": study},
        scenarios=("a", "02"),
        baseline="plain",
        seeds=(0, 1),
    )


def test_a_step_without_its_source_is_one_sentence(arms):
    with pytest.raises(
        UserError, match=r"^source={source} needs .*; pass DATA=<folder> to make ex"
    ):
        run(arms, ALONE)
    assert not arms.output.exists()


def test_programs_of_arms_are_a_scenario_and_seed_each(arms, monkeypatch):
    seen = []

    monkeypatch.setattr(experiment, "run_steps", seen.append)
    monkeypatch.setattr(experiment, "run_beside", lambda jobs, **_: seen.append(jobs))
    monkeypatch.setattr(experiment, "_report_arms", lambda _, folders: seen.append(folders))
    run(replace(arms, source="logs", ranks=2), ALONE)
    (prepare,), jobs, folders, nothing_after = seen
    out = arms.output
    assert nothing_after == []
    assert prepare.arguments == (
        *("-m", "launch.prepare", "data.yaml"),
        *("source=logs", f"output={out}/d"),
    )
    assert prepare.mark == out / "steps" / "prepare.txt"
    assert folders == [out / "features" / "scenario=a", out / "features" / "scenario=02"]
    assert [job.arguments[7:] for job in jobs] == [
        (f"data={out}/d", f'scenarios=["{name}"]', f"seeds=[{seed}]", f"output={folder}")
        for name, folder in zip(("a", "02"), folders, strict=True)
        for seed in (0, 1)
    ]
    assert jobs[0].mark == out / "jobs" / "features-scenario=a-seed-0.txt"


@pytest.fixture
def after(config, monkeypatch):
    """The experiment with a step after its runs, and the names of what was run."""
    seen = []

    def run_steps(steps):
        for step in steps:
            if not step.is_done():
                assert step.name == "step one" or (config.output / "report.json").exists()
                seen.append(step.arguments)
                step._write_mark()

    monkeypatch.setattr(experiment, "run_steps", run_steps)
    monkeypatch.setattr(experiment, "run_beside", lambda *_, **__: None)
    (config.output / "report.json").unlink(missing_ok=True)
    words = {"one": ["prepare", "data.yaml"]}
    later = {"study": ["comparable", "study.yaml", "runs={output}"]}
    return replace(config, steps=words, after=later), seen


def test_a_step_after_the_runs_is_run_once(after):
    config, seen = after
    run(config, ALONE)
    run(config, ALONE)
    study = ("-m", "launch.comparable", "study.yaml", f"runs={config.output}")
    assert seen == [("-m", "launch.prepare", "data.yaml"), study]
    assert (config.output / "after" / "study.txt").exists()


def test_a_step_after_the_runs_is_run_again_when_they_or_its_words_change(after):
    config, seen = after
    run(config, ALONE)
    other = replace(config, after={"study": [*config.after["study"], "smoothing=2"]})
    run(other, ALONE)
    assert [words[-1] for words in seen[1:]] == [f"runs={config.output}", "smoothing=2"]
    (lost,) = config.output.glob("better/seed-1/report.json")
    kept = lost.read_text()
    lost.unlink()

    def make_again(*_, **__):
        lost.write_text(kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "run_beside", make_again)
        run(other, ALONE)
    assert len(seen) == 4


def study(stage="transfer", **words):
    return StudyConfig(stage=stage, config=Path("x.yaml"), **words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"studies": {"a": study(), "b": study("pretrain")}}, "make two experiments of them"),
        ({"figures": {"f": FigureConfig(task="click")}}, "figures are for studies of pretrain"),
        ({"steps": {"a": ["prepare"]}}, r"step a must be \[stage, config, key=value...\]"),
        (
            {"steps": {"a": ["x", "y", "z={seed}"]}},
            "step a runs once, so nothing stands for {seed}",
        ),
        ({"scenarios": (), "studies": {"s": study(words=("a={scenario}",))}}, "s has no scenarios"),
        ({"after": {"a": ["report"]}}, r"step a must be \[stage, config, key=value...\]"),
        ({"after": {"a": ["x", "y", "z={seed}"]}}, "so nothing stands for {seed}"),
        ({"studies": {"after": study()}}, "'after' cannot name a folder here"),
        ({"studies": {"jobs": study()}}, "'jobs' cannot name a folder here"),
        (
            {"studies": {"a": study(variants={"v": []}), "b": study(variants={"v": []})}},
            "two studies have a variant v",
        ),
        ({"studies": {}}, "at least one study and one seed"),
    ],
)
def test_impossible_experiments_of_arms_are_refused(arms, words, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(arms, **words)


def test_scenarios_and_curves_are_not_for_pretrain(config):
    with pytest.raises(
        ValueError, match="scenarios, curves and report are for studies of transfer"
    ):
        replace(config, scenarios=("0",))
