"""Run a stage in many variants and seeds, and compare them: an ablation from one YAML file.

python -m launch.experiment configs/experiments/ablation_debug.yaml

Each run is the stage's own program in a process of its own; a rerun goes on with what is missing.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lfm4ads.analysis.words import interval, number, signed, text_table
from lfm4ads.core.config import config_yaml
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json, write_json, write_text
from lfm4ads.core.log import log
from lfm4ads.core.ranks import Ranks
from lfm4ads.core.version import git_commit
from lfm4ads.metrics.seeds import student_interval

Json = dict[str, Any]
_OF_A_JOB = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class FigureConfig:
    """One number a run is judged by: a mean of AUCs over days and scenarios.

    AUCs are weighted by their positives; a pooled one would reward knowing which scenario clicks
    more.
    """

    task: str
    split: str = "prequential"
    scenarios: tuple[str, ...] = ()
    """Scenario ids; empty: all."""
    first_day: int = 0
    """Days before it are left out."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One experiment."""

    stage: Literal["pretrain"] = "pretrain"
    config: Path
    """Config of the stage that every variant changes."""
    output: Path
    """Folder of the runs, ``<variant>/seed-<n>``, and of the report."""
    words: tuple[str, ...] = ()
    """key=value words of every run; {seed} stands for the seed."""
    variants: dict[str, list[str]]
    """Name -> its own key=value words."""
    baseline: str
    """Variant the others are compared with, seed by seed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    figures: dict[str, FigureConfig]
    ranks: int = 1
    """Processes of a run."""
    parallel: int = 1
    """Runs at the same time."""

    def __post_init__(self) -> None:
        if self.baseline not in self.variants:
            raise ValueError(f"baseline {self.baseline} is none of {', '.join(self.variants)}")
        if not self.seeds or not self.figures:
            raise ValueError("an experiment needs at least one seed and one figure")
        if self.ranks < 1 or self.parallel < 1:
            raise ValueError("ranks and parallel must be at least 1")


@dataclass(frozen=True)
class _Job:
    variant: str
    seed: int
    folder: Path
    command: tuple[str, ...]
    words: str
    """The command and the text of its config: what the result depends on."""


def run(config: Config, ranks: Ranks) -> None:
    """Run what is missing, write ``report.json`` and ``table.txt``, print the table."""
    if not ranks.is_first:
        return
    jobs = [_job(config, variant, seed) for variant in config.variants for seed in config.seeds]
    missing = [job for job in jobs if not _is_done(job)]
    log.info("%d runs, %d of them to do, %d at a time", len(jobs), len(missing), config.parallel)
    with ThreadPoolExecutor(config.parallel) as pool:
        failed = [words for words in pool.map(_run_job, missing) if words]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(missing)} runs failed: {'; '.join(failed)}; mend that and run"
            " the same command, which goes on with what is missing"
        )
    reports = {(job.variant, job.seed): read_json(job.folder / "report.json") for job in jobs}
    report = _compare(config, reports)
    write_json(config.output / "report.json", report)
    table = table_text(report)
    write_text(config.output / "table.txt", f"{table}\n")
    sys.stdout.write(f"{table}\n")


def _job(config: Config, variant: str, seed: int) -> _Job:
    folder = config.output / variant / f"seed-{seed}"
    words = [word.replace("{seed}", str(seed)) for word in config.words]
    words += [*config.variants[variant], f"seed={seed}", f"output={folder}"]
    start = ["-m", f"launch.{config.stage}"]
    if config.ranks > 1:
        start = ["-m", "launch.ranks", "--nproc-per-node", str(config.ranks), *start]
    text = config.config.read_text(encoding="utf-8") if config.config.exists() else ""
    told = f"{' '.join([*start, str(config.config), *words])}\n\n{text}"
    command = (sys.executable, *start, str(config.config), *words)
    return _Job(variant, seed, folder, command, told)


def _is_done(job: _Job) -> bool:
    """Whether the job's run is finished; refuse the run of another command or config."""
    words = job.folder / "words.txt"
    if words.exists() and words.read_text(encoding="utf-8") != job.words:
        raise UserError(
            f"{job.folder} holds a run of other words or another config; choose another output or"
            " remove that folder"
        )
    return (job.folder / "report.json").exists()


def _run_job(job: _Job) -> str:
    """Run one job with its output in ``log.txt``; return what went wrong, or nothing."""
    started = time.monotonic()
    job.folder.mkdir(parents=True, exist_ok=True)
    path = job.folder / "log.txt"
    # Runs side by side share the cores: a thread each.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    for name in list(environment):
        # A run is a job of its own, whatever job this process may be a rank of.
        if name in _OF_A_JOB or name.startswith("TORCHELASTIC_"):
            del environment[name]
    write_text(job.folder / "words.txt", job.words)
    with path.open("w", encoding="utf-8") as file:
        code = subprocess.run(
            job.command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode
    name = f"{job.variant} seed {job.seed}"
    if code:
        last = path.read_text(encoding="utf-8").strip().splitlines()[-1:] or ["it said nothing"]
        return f"{name} ({last[0].removeprefix('error: ')}, see {path})"
    log.info("%s: done in %.0f s", name, time.monotonic() - started)
    return ""


def _compare(config: Config, reports: Mapping[tuple[str, int], Json]) -> Json:
    rows: list[Json] = []
    for name, figure in config.figures.items():
        values = {key: _value(report, figure) for key, report in reports.items()}
        for variant in config.variants:
            own = [values[variant, seed] for seed in config.seeds]
            gains = [values[variant, seed] - values[config.baseline, seed] for seed in config.seeds]
            rows.append(
                {
                    "figure": name,
                    "variant": variant,
                    "values": own,
                    "mean": asdict(student_interval(own)),
                    "lift": None if variant == config.baseline else asdict(student_interval(gains)),
                }
            )
    cost = {
        variant: {
            "num_parameters": reports[variant, config.seeds[0]]["num_parameters"],
            "seconds": [reports[variant, seed]["seconds"] for seed in config.seeds],
        }
        for variant in config.variants
    }
    return {
        "schema_version": 1,
        "stage": "experiment",
        "commit": git_commit(),
        "config": config_yaml(config),
        "seeds": list(config.seeds),
        "figures": rows,
        "cost": cost,
    }


def _value(report: Json, figure: FigureConfig) -> float:
    chosen = [
        (row["auc"], row["positives"])
        for row in report["metrics"]
        if row["task"] == figure.task
        and row["split"] == figure.split
        and row["scenario"] != "all"
        and (not figure.scenarios or row["scenario"] in figure.scenarios)
        and row["day"] >= figure.first_day
        and row["auc"] is not None
    ]
    if not chosen:
        raise UserError(
            f"the runs have no AUC of task {figure.task}, split {figure.split}, scenarios"
            f" {', '.join(figure.scenarios) or 'all'}; mend figures"
        )
    aucs, positives = np.array(chosen, dtype=np.float64).T
    return float(np.average(aucs, weights=positives))


def table_text(report: Json) -> str:
    """Return the comparison as a table; time is relative to the first variant's."""
    header = ["figure", "variant", "AUC", "lift", "95 % interval", "in tables", "dense", "time"]
    first = np.median(next(iter(report["cost"].values()))["seconds"])
    rows: list[list[str]] = []
    for row in report["figures"]:
        cost = report["cost"][row["variant"]]
        lift = row["lift"] or {"mean": None, "low": None, "high": None}
        counts = [f"{cost['num_parameters'][name]:,}" for name in ("tables", "dense")]
        rows.append(
            [
                row["figure"],
                row["variant"],
                number(row["mean"]["mean"]),
                signed(lift["mean"]),
                interval(lift["low"], lift["high"], sign=True),
                *counts,
                f"{np.median(cost['seconds']) / first:.2f}",
            ]
        )
    return text_table(header, rows=rows, words=2)
