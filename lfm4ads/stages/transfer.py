"""Train downstream models, one per arm and seed, on the same rows with and without upstream reps.

torchrun --standalone --nproc-per-node 2 -m launch.transfer configs/transfer/adsworld.yaml
"""

import shutil
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lfm4ads.core.config import config_yaml
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import prepare_output, read_json, write_json, write_text
from lfm4ads.core.log import MetricsLog, log
from lfm4ads.core.ranks import Ranks, StopSignal
from lfm4ads.core.version import digest, git_commit
from lfm4ads.data.attach import Reps, all_representations, resolve_version
from lfm4ads.data.index import Dataset, open_dataset, select_domains
from lfm4ads.data.reader import ReaderConfig
from lfm4ads.model.downstream import Arm, DownstreamConfig
from lfm4ads.shard.sharded import ShardConfig
from lfm4ads.train.arms import ArmConfig, Sources, build_arm
from lfm4ads.train.fit import FitConfig, Fitted, Fitter
from lfm4ads.train.lineage import Lineage, open_lineage
from lfm4ads.train.scores import Figures, figure_rows
from lfm4ads.train.split import SplitConfig


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


@dataclass(frozen=True, kw_only=True)
class Config:
    """Downstream runs."""

    input: InputConfig
    output: Path
    overwrite: bool = False
    domain: str = "ads"
    tasks: tuple[str, ...] = ("click",)
    arms: tuple[Arm, ...] = ("vanilla", "sum", "adapter", "module")
    seeds: tuple[int, ...] = (0, 1, 2)
    split: SplitConfig
    align_days: bool = True
    """Put every day's representations on the scale of the first training day's."""
    fit: FitConfig = field(default_factory=FitConfig)
    reader: ReaderConfig = field(default_factory=lambda: ReaderConfig(batch_size=1024))
    model: DownstreamConfig = field(default_factory=DownstreamConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)

    def __post_init__(self) -> None:
        if not (self.tasks and self.arms and self.seeds):
            raise ValueError("tasks, arms and seeds must each name at least one")


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
    stop: StopSignal


def run(config: Config, ranks: Ranks) -> Path:
    """Train every arm and seed that is not finished yet; return the output folder."""
    setting = _open(config, ranks)
    pending: list[tuple[Arm, int]] = [
        (arm, seed)
        for seed in config.seeds
        for arm in config.arms
        if _open_output(setting, arm=arm, seed=seed)
    ]
    if not pending:
        raise UserError(
            f"{config.output} already holds every arm and seed; choose another output or pass"
            " overwrite=true",
            everywhere=True,
        )
    for arm, seed in pending:
        _run_arm(setting, arm=arm, seed=seed)
    log.info("%d runs are in %s", len(config.arms) * len(config.seeds), config.output)
    return config.output


def _open(config: Config, ranks: Ranks) -> _Setting:
    dataset = open_dataset(config.input.data, ranks)
    days = config.split.days(dataset)
    _check_tasks(config, dataset)
    every = [day for some in days.values() for day in some]
    chosen = select_domains(dataset, [config.domain], days=every, ranks=ranks)
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
        names = all_representations(config.input.reps, version=version, day=first)
        as_of = Reps(config.input.reps, version, names).before(first).manifest.header.as_of
        checkpoint = lineage.checkpoint(as_of)
        stop = StopSignal()
        settings.append(
            _Setting(config, ranks, chosen, version, names, lineage, checkpoint, days, stop)
        )
    return settings[0]


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


def _folder(config: Config, *, arm: Arm, seed: int) -> Path:
    return config.output / arm / f"seed-{seed}"


def _digest(setting: _Setting) -> str:
    """Name what the result of an arm and seed depends on."""
    same = replace(setting.config, arms=("vanilla",), seeds=(0,), overwrite=False, output=Path())
    return digest(same, setting.version, setting.dataset.schema)


def _open_output(setting: _Setting, *, arm: Arm, seed: int) -> bool:
    """Make the folder of a run; return False where it holds this very run, finished."""
    folder, ranks = _folder(setting.config, arm=arm, seed=seed), setting.ranks
    state = ""
    with ranks.together():
        if ranks.is_first:
            report = folder / "report.json"
            same = report.exists() and read_json(report)["digest"] == _digest(setting)
            if same and not setting.config.overwrite:
                state = "finished"
            else:
                prepare_output(folder, overwrite=setting.config.overwrite)
                shutil.rmtree(folder / "predictions", ignore_errors=True)
                own = replace(setting.config, arms=(arm,), seeds=(seed,))
                write_text(folder / "config.yaml", config_yaml(own))
    return ranks.broadcast(state) != "finished"


def _run_arm(setting: _Setting, *, arm: Arm, seed: int) -> None:
    config, ranks = setting.config, setting.ranks
    started = time.monotonic()
    fitter, reps = _build(setting, arm=arm, seed=seed)
    folder = _folder(config, arm=arm, seed=seed)
    metrics = MetricsLog(folder / "metrics.jsonl", ranks=ranks)
    fitted = fitter.fit(
        config.fit,
        train=setting.days["train"],
        valid=setting.days["valid"],
        metrics=metrics,
        stop=setting.stop,
    )
    figures = {
        split: fitter.score(
            setting.days[split],
            path=folder / "predictions" / f"split={split}" / f"part-{ranks.rank:05d}.parquet",
        )
        for split in ("valid", "test")
    }
    for split, of_split in figures.items():
        for (task, scenario), one in of_split.items():
            name = f"auc/{task}/{scenario}"
            metrics.write(name, one.auc, step=fitted.best_epoch, split=split)
    report = _report(setting, fitter, reps, fitted, figures)
    report |= {"arm": arm, "seed": seed, "seconds": time.monotonic() - started}
    with ranks.together():
        if ranks.is_first:
            write_json(folder / "report.json", report)
    auc = figures["test"][config.tasks[0], "all"].auc
    log.info(
        "%s seed %d: test %s AUC %s, best epoch %d, %.0f rows/s, %.0f s",
        arm,
        seed,
        config.tasks[0],
        "undefined" if auc is None else f"{auc:.4f}",
        fitted.best_epoch + 1,
        report["rows_per_second"],
        report["seconds"],
    )


def _build(setting: _Setting, *, arm: Arm, seed: int) -> tuple[Fitter, Reps]:
    config = setting.config
    return build_arm(
        ArmConfig(
            arm=arm,
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
            checkpoint=setting.checkpoint,
        ),
        ranks=setting.ranks,
    )


def _report(
    setting: _Setting, fitter: Fitter, reps: Reps, fitted: Fitted, figures: dict[str, Figures]
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "stage": "transfer",
        "dataset": str(setting.config.input.data),
        "upstream": setting.version,
        "digest": _digest(setting),
        "commit": git_commit(),
        "command": f"torchrun -m launch.transfer {' '.join(sys.argv[1:])}",
        "representations": list(reps.names),
        "best_epoch": fitted.best_epoch,
        "rows_per_second": fitted.rows / max(fitted.seconds, 1e-9),
        "num_parameters": fitter.sharded.num_parameters(),
        "metrics": [row for split, one in figures.items() for row in figure_rows(one, split=split)],
    }
