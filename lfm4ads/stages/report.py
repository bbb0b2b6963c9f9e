"""Gathers finished runs of ``transfer`` and ``retrieve`` into figures, pictures and one page."""

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

import lfm4ads
from lfm4ads.analysis.curves import Curve, load_curves
from lfm4ads.analysis.gallery import Training, draw_results, draw_training, report_styles
from lfm4ads.analysis.html import Extras, render
from lfm4ads.analysis.reliability import reliability_rows
from lfm4ads.analysis.sources import input_sources, quoted, run_command, run_sources
from lfm4ads.analysis.tables import arms_table
from lfm4ads.core.config import config_yaml
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import prepare_output, read_json, whole_file, write_json, write_text
from lfm4ads.core.ranks import Ranks
from lfm4ads.core.version import git_commit
from lfm4ads.data.lineage import config_digest, lineage
from lfm4ads.data.runs import ORACLE, Part, Run, all_parts, check_comparable, find_runs
from lfm4ads.data.scored import Scored, Split, load_rows, oracle_logits
from lfm4ads.metrics.comparison import (
    arm_figures,
    gaps_closed,
    lifts,
    mean_figures,
    scenarios_of_mean,
)
from lfm4ads.metrics.lift_curves import best_points, lift_curves

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Config:
    """One report over any number of runs."""

    runs: tuple[Path, ...]
    """Outputs of transfer and retrieve, each with ``<arm>/seed-<n>`` folders; an arm and seed may
    be in several that were told different scenarios."""
    output: Path
    baseline: str = "vanilla"
    """Arm the others are compared with, seed by seed."""
    oracle: Path | None = None
    """``<dataset>/oracle`` of a simulated dataset."""
    pretrain: Path | None = None
    """Run folder of the upstream, for its training curves."""
    title: str = "What transfer is worth"
    min_positives: int = 20
    """A scenario with fewer positives has too noisy an AUC to enter the mean over scenarios."""
    curves: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Name -> arms in the order of the layer they read; each is drawn as a line over layers."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.min_positives < 2:
            raise ValueError(f"min_positives must be at least 2, got {self.min_positives}")


def run(config: Config, ranks: Ranks) -> None:
    """Write ``report.html``, ``figures/`` and ``report.json``, print the table; rank 0 only."""
    if not ranks.is_first:
        return
    _check_output(config)
    runs = find_runs(config.runs)
    check_comparable(runs, baseline=config.baseline)
    runs.sort(key=lambda run: run.arm != config.baseline)
    valid, test = (_load(config, runs=runs, split=split) for split in ("valid", "test"))
    report = _report(config, runs=runs, splits=(valid, test), alone=replace(ranks, world=1))
    styles = report_styles(report)
    training = draw_training(_curves(runs), section="training", styles=styles)
    pretrain = draw_training(_pretrain_curves(config), section="pretrain", styles={})
    report["training"] = [curve.as_json() for curve in (*training.curves, *pretrain.curves)]
    extras = _extras(config, runs=runs, report=report, training=(training, pretrain))
    _write(config, report=report, extras=extras)
    best = [f"{row['curve']} at {row['label']} ({row['task']})" for row in report["best_points"]]
    chosen = f"the validation days choose {', '.join(best)}\n\n" if best else ""
    page = config.output / "report.html"
    sys.stdout.write(f"{arms_table(report)}\n\n{chosen}{page}\n")


def _check_output(config: Config) -> None:
    """Refuse a folder that holds a finished run; a former report may be overwritten, alone."""
    path = config.output / "report.json"
    stage = read_json(path).get("stage") if path.exists() else None
    if stage not in (None, "report"):
        raise UserError(
            f"{config.output} holds a finished run of {stage}; choose another output for the report"
        )
    if stage is None or not config.overwrite:
        prepare_output(config.output, overwrite=False)


def _load(config: Config, *, runs: Sequence[Run], split: Split) -> Scored:
    rows = load_rows(runs, split=split)
    if config.oracle is not None:
        rows.logit_N[ORACLE, 0] = oracle_logits(config.oracle, rows=rows)
    return rows


def _report(
    config: Config, *, runs: Sequence[Run], splits: tuple[Scored, Scored], alone: Ranks
) -> Json:
    arms = [row for rows in splits for row in arm_figures(rows, alone=alone)]
    entering = {
        (rows.split, task): list(
            scenarios_of_mean(rows, task=task, min_positives=config.min_positives)
        )
        for rows in splits
        for task in rows.tasks
    }
    first = runs[0].parts[0].report
    upstreams = [part.report["upstream"] for part in all_parts(runs)]
    gains = lifts(splits[1], baseline=config.baseline, min_positives=config.min_positives)
    means = mean_figures(arms, entering=entering)
    return {
        "schema_version": 1,
        "stage": "report",
        "title": config.title,
        "baseline": config.baseline,
        "dataset": first["dataset"],
        "upstream": next((version for version in upstreams if version is not None), None),
        "min_positives": config.min_positives,
        "arms": arms,
        "means": means,
        "lifts": gains,
        "curves": lift_curves(gains, curves=config.curves, baseline=config.baseline),
        "best_points": best_points(means, curves=config.curves),
        "gap_closed": gaps_closed(
            splits[1], baseline=config.baseline, min_positives=config.min_positives
        ),
        "reliability": reliability_rows(splits[1]),
        "runs": [_run_row(run, part) for run in runs for part in run.parts],
        "lineage": lineage(runs, pretrain=config.pretrain),
        "versions": _versions(runs),
    }


def _run_row(run: Run, part: Part) -> Json:
    """Return what a run cost; figures it did not record are None."""
    report = part.report
    cost = {name: report.get(name) for name in ("seconds", "rows_per_second", "num_parameters")}
    if isinstance(cost["num_parameters"], dict):  # by kind: tables, dense
        cost["num_parameters"] = sum(report["num_parameters"].values())
    place = {"arm": run.arm, "seed": run.seed, "scenarios": list(part.scenarios)}
    made = {"commit": report.get("commit"), "config_digest": config_digest(part.folder)}
    return {**place, "folder": str(part.folder), **cost, **made, "command": run_command(part)}


def _versions(runs: Sequence[Run]) -> dict[str, str]:
    """Return what made this report, and what made the runs where they say so."""
    ours: dict[str, str] = {
        "report by lfm4ads": f"{lfm4ads.__version__}, commit {git_commit() or 'unknown'}",
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "matplotlib": mpl.__version__,
    }
    theirs: dict[str, set[str]] = {}
    for part in all_parts(runs):
        recorded: dict[str, str] = part.report.get("versions", {})
        for name, version in (recorded | {"commit": part.report.get("commit", "unknown")}).items():
            theirs.setdefault(f"{name} of the runs", set()).add(version or "unknown")
    return ours | {name: ", ".join(sorted(versions)) for name, versions in theirs.items()}


def _extras(
    config: Config, *, runs: Sequence[Run], report: Json, training: tuple[Training, Training]
) -> Extras:
    logged, pretrain = training
    return Extras(
        pictures=[*draw_results(report), *logged.pictures, *pretrain.pictures],
        sources=[*input_sources(report["lineage"]), *run_sources(runs)],
        command=f"python -m launch.report {quoted(config.output / 'config.yaml')} overwrite=true",
        notes={"training": logged.note, "pretrain": pretrain.note},
        has_pretrain=config.pretrain is not None,
    )


def _curves(runs: Sequence[Run]) -> list[Curve]:
    """Read what the runs logged; a run that logged nothing has no curve."""
    logs = [(run, part) for run in runs for part in run.parts]
    return [
        curve
        for run, part in logs
        if (part.folder / "metrics.jsonl").is_file()
        for curve in load_curves(part.folder / "metrics.jsonl", run=part.name, arm=run.arm)
    ]


def _pretrain_curves(config: Config) -> list[Curve]:
    if config.pretrain is None:
        return []
    path = config.pretrain / "metrics.jsonl"
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; pass the run folder of pretrain or leave pretrain out"
        )
    return load_curves(path, run="pretrain", arm="pretrain")


def _write(config: Config, *, report: Json, extras: Extras) -> None:
    """Write the files; ``report.json`` goes first and comes last: it says the report is whole."""
    (config.output / "report.json").unlink(missing_ok=True)
    figures = config.output / "figures"
    for stale in (*figures.glob("*.svg"), *figures.glob("*.png")):
        stale.unlink()
    for picture in extras.pictures:
        write_text(figures / f"{picture.name}.svg", picture.svg)
        with whole_file(figures / f"{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png)
    write_text(config.output / "config.yaml", config_yaml(config))
    write_text(config.output / "report.html", render(report, extras=extras))
    write_json(config.output / "report.json", report)
