"""Run arms, scenarios, variants and seeds of a stage, and compare them: one YAML file.

python -m launch.experiment configs/experiments/transfer_debug.yaml

Each run is the stage's own program in a process of its own; a rerun goes on with what is missing.
"""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lfm4ads.analysis.tables import variants_table
from lfm4ads.core.config import config_yaml
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json, write_json, write_text
from lfm4ads.core.program import Program, run_beside, run_steps
from lfm4ads.core.ranks import Ranks
from lfm4ads.core.version import git_commit
from lfm4ads.metrics.variants import FigureConfig, compare_variants

Json = dict[str, Any]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.'-]*")
_OURS = ("steps", "after", "jobs", "figures")
"""Folders of the experiment's own."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Runs of one stage."""

    stage: Literal["pretrain", "transfer", "retrieve"] = "pretrain"
    config: Path
    """Config of the stage that every run starts from; of transfer and retrieve it has the arms."""
    words: tuple[str, ...] = ()
    """key=value words of every run."""
    variants: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Name -> its own key=value words."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One experiment.

    In words, {output} and {source} stand for those below, and in words of a study {seed} and
    {scenario} for those of the run.
    """

    output: Path
    """Folder of the runs and of the report."""
    source: str = ""
    """Folder of the raw logs."""
    steps: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """What runs once, in order, before the studies: name -> stage, config, key=value words."""
    studies: dict[str, StudyConfig]
    scenarios: tuple[str, ...] = ()
    """A run of transfer and retrieve for each; empty: one of all that its config names."""
    baseline: str
    """Variant or arm the others are compared with, seed by seed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    figures: dict[str, FigureConfig] = field(default_factory=dict[str, FigureConfig])
    """What variants of pretrain are judged by."""
    after: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """What runs once, in order, after the studies, and again when one of their runs is new."""
    curves: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Name -> arms of transfer and retrieve in the order of the layer they read."""
    report: tuple[str, ...] = ()
    """key=value words of the report on arms, such as title= and oracle=."""
    ranks: int = 1
    """Processes of a run."""
    parallel: int = 1
    """Runs at the same time."""

    def __post_init__(self) -> None:
        if not (self.studies and self.seeds):
            raise ValueError("an experiment needs at least one study and one seed")
        if self.ranks < 1 or self.parallel < 1:
            raise ValueError("ranks and parallel must be at least 1")
        for name, words in (*self.steps.items(), *self.after.items()):
            if len(words) < 2:
                raise ValueError(f"step {name} must be [stage, config, key=value...]")
            _refuse(words, holes=("{seed}", "{scenario}"), why=f"step {name} runs once")
        stages = {study.stage for study in self.studies.values()}
        if "pretrain" in stages and len(stages) > 1:
            raise ValueError(
                "studies of pretrain are compared by figures, those of transfer and retrieve by"
                " scenario; make two experiments of them"
            )
        self._check_names()
        self._check_pretrain() if self.of_pretrain else self._check_arms()

    @property
    def of_pretrain(self) -> bool:
        """Whether the studies are of pretrain; otherwise they are of transfer and retrieve."""
        return all(study.stage == "pretrain" for study in self.studies.values())

    def _check_names(self) -> None:
        variants = [name for study in self.studies.values() for name in study.variants]
        for name in (*self.steps, *self.after, *self.studies, *variants):
            if not _NAME.fullmatch(name) or name in _OURS:
                raise ValueError(
                    f"{name!r} cannot name a folder here; use letters, digits, _ . - and ', and"
                    f" none of {', '.join(_OURS)}"
                )
        twice = [name for name in variants if variants.count(name) > 1]
        if twice:
            raise ValueError(f"two studies have a variant {twice[0]}; give each its own name")

    def _check_pretrain(self) -> None:
        if not self.figures:
            raise ValueError("an experiment of pretrain needs at least one figure")
        if self.scenarios or self.curves or self.report:
            raise ValueError("scenarios, curves and report are for studies of transfer or retrieve")
        variants = [name for study in self.studies.values() for name in study.variants]
        if self.baseline not in variants:
            raise ValueError(f"baseline {self.baseline} is none of {', '.join(variants)}")

    def _check_arms(self) -> None:
        if self.figures:
            raise ValueError("figures are for studies of pretrain; arms are compared by scenario")
        if not self.scenarios:
            for name, study in self.studies.items():
                words = (*study.words, *(word for own in study.variants.values() for word in own))
                _refuse(words, holes=("{scenario}",), why=f"study {name} has no scenarios")


def _refuse(words: Sequence[str], *, holes: Sequence[str], why: str) -> None:
    for word in words:
        for hole in holes:
            if hole in word:
                raise ValueError(f"{why}, so nothing stands for {hole} in {word}")


def run(config: Config, ranks: Ranks) -> None:
    """Run what is missing, write ``report.json``, print the table."""
    if not ranks.is_first:
        return
    steps = _steps(config, config.steps, folder="steps")
    after = _steps(config, config.after, folder="after")
    variants = _pretrain_runs(config) if config.of_pretrain else {}
    jobs = list(variants.values()) or _arm_jobs(config)
    run_steps(steps)
    _forget_outdated(after, anew=not all(job.is_done() for job in jobs))
    run_beside(jobs, parallel=config.parallel)
    if variants:
        _write_variants(config, variants)
    else:
        _report_arms(config, list(dict.fromkeys(job.output for job in jobs)))
    run_steps(after)


def _forget_outdated(after: Sequence[Program], *, anew: bool) -> None:
    """Let steps run again that read runs to be made ``anew``, or that are told other words."""
    for step in after:
        if anew or (step.mark.exists() and step.mark.read_text(encoding="utf-8") != step.told):
            step.mark.unlink(missing_ok=True)


def _fill(config: Config, words: Sequence[str], **values: object) -> tuple[str, ...]:
    """Return the words with their holes filled."""
    filled: list[str] = []
    for word in words:
        if "{source}" in word and not config.source:
            raise UserError(
                f"{word} needs the folder of the logs; pass DATA=<folder> to make experiment, or"
                " source=<folder>"
            )
        own = word.replace("{source}", config.source).replace("{output}", str(config.output))
        for name, value in values.items():
            own = own.replace(f"{{{name}}}", str(value))
        filled.append(own)
    return tuple(filled)


def _steps(config: Config, steps: dict[str, list[str]], *, folder: str) -> list[Program]:
    """Return the programs of steps, whose marks and logs are in ``folder``."""
    programs: list[Program] = []
    for name, told in steps.items():
        stage, path, *words = _fill(config, told)
        programs.append(
            Program(
                name=f"step {name}",
                stage=stage,
                config=Path(path),
                words=tuple(words),
                ranks=config.ranks,
                kind="step",
                mark=config.output / folder / f"{name}.txt",
                log=config.output / folder / f"{name}.log",
            )
        )
    return programs


def _pretrain_runs(config: Config) -> dict[tuple[str, int], Program]:
    """Return the run of every variant and seed, in ``<variant>/seed-<n>``."""
    runs: dict[tuple[str, int], Program] = {}
    for study in config.studies.values():
        for variant, own in study.variants.items():
            for seed in config.seeds:
                folder = config.output / variant / f"seed-{seed}"
                words = _fill(config, (*study.words, *own), seed=seed)
                runs[variant, seed] = Program(
                    name=f"{variant} seed {seed}",
                    stage=study.stage,
                    config=study.config,
                    words=(*words, f"seed={seed}", f"output={folder}"),
                    ranks=config.ranks,
                    kind="run",
                    mark=folder / "words.txt",
                    log=folder / "log.txt",
                    output=folder,
                )
    return runs


def _arm_jobs(config: Config) -> list[Program]:
    """Return a run of all arms for every study, variant, scenario and seed."""
    return [
        _arm_job(config, name, variant=variant, scenario=scenario, seed=seed)
        for name, study in config.studies.items()
        for variant in study.variants or ("",)
        for scenario in config.scenarios or ("",)
        for seed in config.seeds
    ]


def _arm_job(config: Config, name: str, *, variant: str, scenario: str, seed: int) -> Program:
    study = config.studies[name]
    places = [name, *filter(None, (variant, f"scenario={scenario}" if scenario else ""))]
    output = config.output.joinpath(*places)
    own = study.variants.get(variant, [])
    words = _fill(config, (*study.words, *own), seed=seed, scenario=scenario)
    chosen = (f"scenarios={json.dumps([scenario])}",) if scenario else ()
    stem = "-".join((*places, f"seed-{seed}"))
    return Program(
        name=" ".join((*places, f"seed {seed}")),
        stage=study.stage,
        config=study.config,
        words=(*words, *chosen, f"seeds=[{seed}]", f"output={output}"),
        ranks=config.ranks,
        kind="arms",
        mark=config.output / "jobs" / f"{stem}.txt",
        log=config.output / "jobs" / f"{stem}.log",
        output=output,
        seed=seed,
    )


def _write_variants(config: Config, runs: dict[tuple[str, int], Program]) -> None:
    reports = {key: read_json(one.output / "report.json") for key, one in runs.items()}
    report = {
        "schema_version": 1,
        "stage": "experiment",
        "commit": git_commit(),
        "config": config_yaml(config),
        "seeds": list(config.seeds),
        **compare_variants(
            reports, figures=config.figures, baseline=config.baseline, seeds=config.seeds
        ),
    }
    write_json(config.output / "report.json", report)
    table = variants_table(report)
    write_text(config.output / "table.txt", f"{table}\n")
    sys.stdout.write(f"{table}\n")


def _report_arms(config: Config, folders: Sequence[Path]) -> None:
    """Let the stage report read the runs: it writes into the output; print what it says."""
    told = {
        "runs": [str(folder) for folder in folders],
        "output": str(config.output),
        "baseline": config.baseline,
        "curves": config.curves,
        "overwrite": True,
    }
    path = config.output / "report.yaml"
    write_text(path, json.dumps(told, indent=1) + "\n")
    log = config.output / "jobs" / "report.log"
    report = Program(
        name="the report",
        stage="report",
        config=path,
        words=_fill(config, config.report),
        kind="step",
        mark=log.with_suffix(".txt"),
        log=log,
    )
    failed = report.run()
    if failed:
        raise UserError(f"{failed} failed")
    table = log.read_text(encoding="utf-8")
    write_text(config.output / "table.txt", table)
    sys.stdout.write(table)
