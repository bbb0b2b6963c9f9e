"""Compare runs of pretrain on users whose feedback to two tasks is alike, and on all others.

python -m launch.comparable configs/comparable/debug.yaml

Bins are made of training rows alone; the scores are those that ``write_scores=true`` left. One
process; a run's scores are in memory at a time.
"""

import shlex
import sys
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lfm4ads.analysis.comparable import draw_study, render_study, study_table
from lfm4ads.core.config import config_yaml
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import prepare_output, read_json, whole_file, write_json, write_text
from lfm4ads.core.ranks import Ranks
from lfm4ads.core.version import git_commit
from lfm4ads.data.index import Dataset, open_dataset
from lfm4ads.data.positives import Positives, count_positives
from lfm4ads.data.scored_days import (
    NO_LABEL,
    DayScores,
    RunKey,
    check_same_rows,
    common_days,
    find_scored_runs,
    load_scores,
)
from lfm4ads.metrics.comparable import (
    Against,
    Bins,
    BinsConfig,
    Cell,
    bin_users,
    cell_of,
    compare_cells,
)

Json = dict[str, Any]
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class StudyDays:
    """Days as YYYYMMDD; 0 stands for what the runs say."""

    first: int = 0
    """First training day that is counted; 0: the first of the dataset."""
    last: int = 0
    """Last training day that is counted; 0: the last before any that the runs scored."""
    test_first: int = 0
    """First scored day that is compared on, such as one after the days that chose the number of
    passes; 0: the first that the runs scored."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One study."""

    runs: Path
    """Folder of ``<variant>/seed-<n>``, as an experiment leaves it."""
    data: Path
    """The dataset they were trained on."""
    output: Path
    overwrite: bool = False
    baseline: str = ""
    """Variant the others are compared with, seed by seed."""
    baselines: dict[str, str] = field(default_factory=dict[str, str])
    """Task -> variant that learned this task alone, where each task has a run of its own."""
    variants: tuple[str, ...] = ()
    """Those that are compared, in order; empty: all that have scores."""
    pairs: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Name -> two tasks; empty: every pair of the tasks that were scored."""
    bins: BinsConfig = field(default_factory=BinsConfig)
    days: StudyDays = field(default_factory=StudyDays)

    def __post_init__(self) -> None:
        if not (self.baseline or self.baselines):
            raise ValueError("a study needs a baseline, or baselines by task")
        for name, tasks in self.pairs.items():
            if len(set(tasks)) != 2 or len(tasks) != 2:
                raise ValueError(f"pairs.{name} must name two tasks, got {tasks}")


def run(config: Config, ranks: Ranks) -> None:
    """Write report, table, page and pictures; print the table."""
    if not ranks.is_first:
        return
    _check_output(config)
    report = study_report(config, alone=replace(ranks, world=1))
    prepare_output(config.output, overwrite=config.overwrite)
    _write(config, report)


def study_report(config: Config, *, alone: Ranks) -> Json:
    """Return the content of ``report.json``; ``alone`` is a job of one rank."""
    needed = [name for name in (config.baseline, *config.baselines.values()) if name]
    folders = find_scored_runs(config.runs, needed=needed, variants=config.variants)
    scored = common_days(list(folders.values()))
    days = _test_days(config, scored)
    dataset = open_dataset(config.data, alone)
    train_days = _train_days(config, dataset, scored=scored, test_days=days)
    pairs = _pairs(config, dataset)
    positives = count_positives(dataset, days=train_days)
    _check_rates(positives, pairs=pairs)
    bins = {
        name: bin_users(positives, pair=pair, config=config.bins) for name, pair in pairs.items()
    }
    study = _score_runs(folders, days=days, bins=bins, alone=alone)
    seeds = list(dict.fromkeys(seed for _, seed in folders))
    against = Against(baseline=config.baseline, baselines=config.baselines)
    return {
        "schema_version": 1,
        "stage": "comparable",
        "commit": git_commit(),
        "dataset": str(config.data),
        "train_days": train_days,
        "test_days": days,
        "baseline": config.baseline,
        "baselines": config.baselines,
        "seeds": seeds,
        "pairs": [
            {"name": name, "tasks": list(one.pair), "low": one.low, "high": one.high}
            | {"bins": _bin_rows(one, rows=study.rows)}
            for name, one in bins.items()
        ],
        "figures": [
            row
            for name, one in bins.items()
            for row in compare_cells(study.cells, name=name, bins=one, against=against, seeds=seeds)
        ],
    }


def _test_days(config: Config, scored: list[int]) -> list[int]:
    chosen = [day for day in scored if day >= config.days.test_first]
    if not chosen:
        raise UserError(
            f"days.test_first is {config.days.test_first}, but the runs scored days {scored[0]} to"
            f" {scored[-1]}; choose one of these"
        )
    return chosen


def _train_days(
    config: Config, dataset: Dataset, *, scored: list[int], test_days: list[int]
) -> list[int]:
    """Return the days whose rows make the bins: all before the first test day."""
    last = config.days.last or scored[0] - 1
    if last >= test_days[0]:
        raise UserError(
            f"days.last is {last}, but the runs are compared from {test_days[0]} on: labels of that"
            " day would choose the bins; move days.last before it"
        )
    days = [day for day in sorted(dataset.days) if config.days.first <= day <= last]
    if not days:
        raise UserError(
            f"{dataset.path} has no training day from {config.days.first or min(dataset.days)} to"
            f" {last}; mend days or point data at the dataset of the runs"
        )
    return days


def _pairs(config: Config, dataset: Dataset) -> dict[str, tuple[str, str]]:
    known = dataset.schema.binary_tasks
    for name, tasks in config.pairs.items():
        unknown = set(tasks) - set(known)
        if unknown:
            raise UserError(
                f"pairs.{name} names task {min(unknown)}; the dataset has {', '.join(known)}"
            )
    unknown = set(config.baselines) - set(known)
    if unknown:
        raise UserError(f"baselines names task {min(unknown)}; the dataset has {', '.join(known)}")
    chosen = config.pairs or {f"{a}-{b}": [a, b] for a, b in combinations(known, 2)}
    if not chosen:
        raise UserError(f"{dataset.path} has one binary task, {known[0]}; a study needs two")
    for task in (task for tasks in chosen.values() for task in tasks):
        if not config.baseline and task not in config.baselines:
            raise UserError(f"baselines has none for task {task}; add it or set baseline")
    return {name: (tasks[0], tasks[1]) for name, tasks in chosen.items()}


def _check_output(config: Config) -> None:
    """Refuse a folder that holds something else: overwriting empties it, once there is a study."""
    path = config.output / "report.json"
    stage = read_json(path).get("stage") if path.exists() else "comparable"
    if stage != "comparable":
        raise UserError(
            f"{config.output} holds a finished run of {stage}; choose another output for the study"
        )
    if not config.overwrite:
        prepare_output(config.output, overwrite=False)


def _check_rates(positives: Positives, *, pairs: dict[str, tuple[str, str]]) -> None:
    for task in dict.fromkeys(task for pair in pairs.values() for task in pair):
        if not positives.of(task)[1].any():
            raise UserError(
                f"no row of the training days is a positive of {task}; leave its pairs out"
            )


@dataclass(frozen=True, kw_only=True)
class _Study:
    rows: DayScores
    """Of the first run: the rows and labels of all of them."""
    cells: dict[RunKey, dict[tuple[str, int, str], Cell]]


def _score_runs(
    folders: dict[RunKey, Path], *, days: list[int], bins: dict[str, Bins], alone: Ranks
) -> _Study:
    """Return every run's figures by pair, bin and task."""
    tasks = list(dict.fromkeys(task for one in bins.values() for task in one.pair))
    first_key, *_ = folders
    first = load_scores(folders[first_key], days=days, tasks=tasks)
    cells = {first_key: _cells(first, bins=bins, alone=alone)}
    for key, folder in folders.items():
        if key != first_key:
            scores = load_scores(folder, days=days, tasks=tasks)
            check_same_rows(first, scores, first=folders[first_key], run=folder)
            cells[key] = _cells(scores, bins=bins, alone=alone)
    return _Study(rows=first, cells=cells)


def _cells(
    scores: DayScores, *, bins: dict[str, Bins], alone: Ranks
) -> dict[tuple[str, int, str], Cell]:
    cells: dict[tuple[str, int, str], Cell] = {}
    for name, one in bins.items():
        bin_N = one.of(scores.user_N)
        for place in range(len(one.names)):
            for task in one.pair:
                rows = np.flatnonzero((bin_N == place) & (scores.label_N[task] != NO_LABEL))
                cells[name, place, task] = cell_of(
                    scores.logit_N[task][rows],
                    label_N=scores.label_N[task][rows],
                    user_N=scores.user_N[rows],
                    alone=alone,
                )
    return cells


def _bin_rows(bins: Bins, *, rows: DayScores) -> list[Json]:
    """Return what each bin holds."""
    bin_N = bins.of(rows.user_N)
    found: list[Json] = []
    for place, name in enumerate(bins.names):
        labels = {task: rows.label_N[task][bin_N == place] for task in bins.pair}
        found.append(
            {
                "name": name,
                "users": len(np.unique(rows.user_N[bin_N == place])),
                "train_users": int((bins.bin_U == place).sum()),
                "rows": {task: int((own != NO_LABEL).sum()) for task, own in labels.items()},
                "positives": {task: int((own == 1).sum()) for task, own in labels.items()},
            }
        )
    return found


def _write(config: Config, report: Json) -> None:
    """Write the files; ``report.json`` comes last: it says the folder is whole."""
    drawn = draw_study(report)
    for one in drawn:
        write_text(config.output / "figures" / f"{one.picture.name}.svg", one.picture.svg)
        with whole_file(config.output / "figures" / f"{one.picture.name}.png") as temporary:
            temporary.write_bytes(one.png)
    text, path = config_yaml(config), config.output / "config.yaml"
    write_text(path, text)
    command = f"python -m launch.comparable {shlex.quote(str(path))} overwrite=true"
    pictures = [one.picture for one in drawn]
    page = render_study(report, pictures=pictures, command=command, config=text)
    write_text(config.output / "report.html", page)
    table = study_table(report)
    write_text(config.output / "table.txt", f"{table}\n")
    write_json(config.output / "report.json", report)
    sys.stdout.write(f"{table}\n\n{config.output / 'report.html'}\n")
