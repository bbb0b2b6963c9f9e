"""Train downstream models, one per arm and seed, on the same rows with and without upstream reps.

torchrun --standalone --nproc-per-node 2 -m launch.transfer configs/transfer/adsworld.yaml
"""

import re
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lfm4ads.core.config import config_yaml
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import write_json
from lfm4ads.core.log import MetricsLog, log
from lfm4ads.core.ranks import Ranks
from lfm4ads.core.version import digest, git_commit
from lfm4ads.data.attach import KeptTables, Reps, resolve_version
from lfm4ads.data.choice import load_choice
from lfm4ads.data.index import Dataset, open_dataset, select_rows
from lfm4ads.data.reader import ReaderConfig
from lfm4ads.data.rows import KeptRows
from lfm4ads.model.arm import DEFAULT_ARMS, ArmConfig, choose_arms
from lfm4ads.model.downstream import DownstreamConfig
from lfm4ads.shard.sharded import ShardConfig
from lfm4ads.train.arms import Built, RunConfig, Sources, build_arm
from lfm4ads.train.fit import FitConfig, Fitted, Fitter
from lfm4ads.train.lineage import Lineage, open_lineage
from lfm4ads.train.scores import Figures, figure_rows
from lfm4ads.train.split import SplitConfig
from lfm4ads.train.study import Study


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """Folders that other stages wrote."""

    data: Path
    reps: Path
    """Root of the representations that dump wrote."""
    pretrain: Path
    """Run folder of the upstream model, whose weights the arm module starts from."""
    upstream: str = ""
    """Version of the representations; empty when there is only one."""
    as_of: int = 0
    """Snapshot that samples of every day read; 0: each day the newest before it. One for all days
    tells training samples of their future, as the public code of LFM4Ads does: for comparison."""
    select: Path | None = None
    """``features.yaml`` of select: no arm reads another representation, dim or feature."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Downstream runs."""

    input: InputConfig
    output: Path
    overwrite: bool = False
    domain: str = "ads"
    scenarios: tuple[str, ...] = ()
    """Scenarios that are trained and tested on; empty: all of the domain."""
    tasks: tuple[str, ...] = ("click",)
    arms: dict[str, ArmConfig] = field(default_factory=dict[str, ArmConfig])
    """Name -> how the upstream enters; empty: vanilla, sum, adapter and module."""
    only: tuple[str, ...] = ()
    """Arms to run of these; empty: all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    split: SplitConfig
    align_days: bool = True
    """Put every day's representations on the scale of the first training day's."""
    fit: FitConfig = field(default_factory=FitConfig)
    reader: ReaderConfig = field(default_factory=lambda: ReaderConfig(batch_size=1024))
    model: DownstreamConfig = field(default_factory=DownstreamConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)

    def __post_init__(self) -> None:
        if not (self.tasks and self.seeds):
            raise ValueError("tasks and seeds must each name at least one")
        unknown = set(self.only) - set(self.arms or DEFAULT_ARMS)
        if unknown:
            raise ValueError(
                f"only names {min(unknown)}, which is no arm; the arms are"
                f" {', '.join(self.arms or DEFAULT_ARMS)}"
            )
        for name in self.arms:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.'-]*", name):
                raise ValueError(f"arm {name!r} names a folder; use letters, digits, _ . - and '")

    @property
    def chosen_arms(self) -> dict[str, ArmConfig]:
        """The arms that run, by name."""
        arms = self.arms or DEFAULT_ARMS
        return {name: arm for name, arm in arms.items() if not self.only or name in self.only}


@dataclass(frozen=True)
class _Setting:
    """What all arms and seeds share."""

    config: Config
    ranks: Ranks
    dataset: Dataset
    version: str
    names: tuple[str, ...]
    """Every representation there is."""
    lineage: Lineage
    checkpoint: Path
    """Where the arm module starts: the day the first training day's snapshot is as of."""
    days: dict[str, list[int]]
    same: str
    """What all arms' results depend on, named."""
    kept: KeptTables = field(default_factory=KeptTables)
    rows: KeptRows = field(default_factory=KeptRows)


def run(config: Config, ranks: Ranks) -> Path:
    """Train every arm and seed that is not finished yet; return the output folder."""
    setting = _open(config, ranks)
    config = setting.config

    def own(arm: str, seed: int) -> str:
        arms = {arm: config.chosen_arms[arm]}
        return config_yaml(replace(config, arms=arms, only=(), seeds=(seed,)))

    study = Study(
        output=config.output,
        arms=list(config.chosen_arms),
        seeds=config.seeds,
        overwrite=config.overwrite,
        digest=lambda arm: _digest(setting, arm),
        config=own,
        results=("predictions",),
    )
    return study.run(
        lambda arm, seed: _run_arm(setting, study.folder(arm, seed), arm=arm, seed=seed),
        ranks=ranks,
    )


def _open(config: Config, ranks: Ranks) -> _Setting:
    dataset = open_dataset(config.input.data, ranks)
    days = config.split.days(dataset)
    _check_tasks(config, dataset)
    every = [day for some in days.values() for day in some]
    chosen = select_rows(
        dataset, domains=[config.domain], scenarios=config.scenarios, days=every, ranks=ranks
    )
    for name, some in days.items():
        if not sum(chosen.rows(day) for day in some):
            raise UserError(
                f"{config.input.data} has no {config.domain} rows in the {name} days",
                everywhere=True,
            )
    settings: list[_Setting] = []
    with ranks.together():
        lineage = open_lineage(config.input.pretrain)
        version = resolve_version(config.input.reps, config.input.upstream)
        if lineage.version != version:
            raise UserError(
                f"{config.input.pretrain} is upstream {lineage.version}, the representations are of"
                f" {version}; point pretrain and reps at the same upstream"
            )
        first = config.split.train_first
        reps = Reps(config.input.reps, version, (), as_of=config.input.as_of)
        names = reps.every(first)
        checkpoint = lineage.checkpoint(reps.before(first).manifest.header.checkpoint_day)
        config = _choose(config, dataset, names)
        own = replace(config, arms={}, only=(), seeds=(0,), overwrite=False, output=Path())
        same = digest(own, version, dataset.schema)
        settings.append(
            _Setting(config, ranks, chosen, version, names, lineage, checkpoint, days, same)
        )
    return settings[0]


def _choose(config: Config, dataset: Dataset, names: tuple[str, ...]) -> Config:
    """Return the config cut down to what select chose; check what arms read in any case."""
    arms = {name: arm.named(names) for name, arm in config.chosen_arms.items()}
    if config.input.select is None:
        return config
    every = tuple(dataset.schema.features)
    choice = load_choice(config.input.select, features=every, representations=names)
    features = choice.keep_features(config.model.features or every)
    model = replace(config.model, features=features)
    return replace(config, arms=choose_arms(arms, choice), only=(), model=model)


def _check_tasks(config: Config, dataset: Dataset) -> None:
    known = dataset.schema.binary_tasks
    monitor = (config.fit.monitor,) if config.fit.monitor else ()
    for task in (*config.tasks, *monitor):
        if task not in known or (task in monitor and task not in config.tasks):
            raise UserError(
                f"task {task} cannot be trained or monitored here; {config.input.data} has"
                f" {', '.join(known)}, and fit.monitor must be one of tasks",
                everywhere=True,
            )


def _digest(setting: _Setting, arm: str) -> str:
    """Name what the result of an arm, whatever its seed, depends on."""
    return digest(setting.config.chosen_arms[arm], setting.same)


def _run_arm(setting: _Setting, folder: Path, *, arm: str, seed: int) -> None:
    config, ranks = setting.config, setting.ranks
    started = time.monotonic()
    built = _build(setting, arm=arm, seed=seed)
    metrics = MetricsLog(folder / "metrics.jsonl", ranks=ranks)
    train, valid = setting.days["train"], setting.days["valid"]
    stop = ranks.stop
    fitted = built.fitter.fit(config.fit, train=train, valid=valid, metrics=metrics, stop=stop)
    figures = _score(setting, built.fitter, folder=folder, metrics=metrics)
    for split, of_split in figures.items():
        for (task, name), one in of_split.items():
            metrics.write(f"auc/{task}/{name}", one.auc, step=fitted.best_epoch, split=split)
    report = _report(setting, built, fitted, figures)
    report |= {"arm": arm, "seed": seed, "digest": _digest(setting, arm)}
    report["seconds"] = time.monotonic() - started
    with ranks.together():
        if ranks.is_first:
            write_json(folder / "report.json", report)
    auc = figures["test"][config.tasks[0], "all"].auc
    shown = "undefined" if auc is None else f"{auc:.4f}"
    words = "%s seed %d: test %s AUC %s, best epoch %d, %.0f s"
    log.info(words, arm, seed, config.tasks[0], shown, fitted.best_epoch + 1, report["seconds"])


def _score(
    setting: _Setting, fitter: Fitter, *, folder: Path, metrics: MetricsLog
) -> dict[str, Figures]:
    """Return the figures of valid and test; write the predictions."""
    days = setting.days

    def path(split: str) -> Path:
        rank = setting.ranks.rank
        return folder / "predictions" / f"split={split}" / f"part-{rank:05d}.parquet"

    valid = fitter.score(days["valid"], path=path("valid"))
    then = (
        fitter.roll(days["valid"], metrics=metrics, stop=setting.ranks.stop)
        if setting.config.fit.rolling
        else None
    )
    return {"valid": valid, "test": fitter.score(days["test"], path=path("test"), then=then)}


def _build(setting: _Setting, *, arm: str, seed: int) -> Built:
    config = setting.config
    return build_arm(
        RunConfig(
            name=arm,
            arm=config.chosen_arms[arm],
            seed=seed,
            domain=config.domain,
            tasks=config.tasks,
            first_day=config.split.train_first,
            align_days=config.align_days,
            reader=config.reader,
            model=config.model,
            shard=config.shard,
        ),
        Sources(
            dataset=setting.dataset,
            reps=config.input.reps,
            version=setting.version,
            names=setting.names,
            upstream=setting.lineage.config,
            ids=setting.lineage.ids,
            checkpoint=setting.checkpoint,
            snapshot=config.input.as_of,
            kept=setting.kept,
            rows=setting.rows,
        ),
        ranks=setting.ranks,
    )


def _report(
    setting: _Setting, built: Built, fitted: Fitted, figures: dict[str, Figures]
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "stage": "transfer",
        "dataset": str(setting.config.input.data),
        "scenarios": list(setting.config.scenarios),
        "upstream": setting.version,
        "commit": git_commit(),
        "command": f"torchrun -m launch.transfer {' '.join(sys.argv[1:])}",
        "representations": list(built.reads),
        "coverage": built.coverage.as_json() if built.coverage else None,
        "best_epoch": fitted.best_epoch,
        "rows_per_second": fitted.rows / max(fitted.seconds, 1e-9),
        "num_parameters": built.fitter.sharded.num_parameters(),
        "metrics": [row for split, one in figures.items() for row in figure_rows(one, split=split)],
    }
