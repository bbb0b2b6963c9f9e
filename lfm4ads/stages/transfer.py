"""Train downstream models, one per arm and seed, on the same rows with and without upstream knowledge.

torchrun --standalone --nproc-per-node 2 -m launch.transfer configs/transfer/adsworld.yaml
"""

import shutil
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lfm4ads.core.checkpoint import check_checkpoint, complete_checkpoints
from lfm4ads.core.config import config_yaml, parse_config
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import prepare_output, read_json, write_json, write_text
from lfm4ads.core.log import MetricsLog, log
from lfm4ads.core.ranks import Ranks, StopSignal
from lfm4ads.core.version import digest, git_commit
from lfm4ads.data.attach import Reps, RepsReader, all_representations, resolve_version
from lfm4ads.data.batch import Batch
from lfm4ads.data.index import Dataset, open_dataset, select_domains
from lfm4ads.data.reader import Reader, ReaderConfig
from lfm4ads.model.downstream import Arm, Downstream, DownstreamConfig, module_weights
from lfm4ads.model.lfm import LfmConfig
from lfm4ads.shard.sharded import ShardConfig, Sharded, shard_model
from lfm4ads.shard.state import copy_weights, load_tensors, put_weights
from lfm4ads.train.loop import progress, train_pass
from lfm4ads.train.losses import masked_bce
from lfm4ads.train.scores import (
    Figures,
    ScoreFile,
    Scores,
    figure_rows,
    score_pass,
    weighted_scenario_auc,
)


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Days of the downstream data, YYYYMMDD; valid and test follow train without a gap."""

    train_first: int
    train_last: int
    valid_last: int
    test_last: int

    def __post_init__(self) -> None:
        if not self.train_first <= self.train_last < self.valid_last < self.test_last:
            raise ValueError(
                "split must be train_first <= train_last < valid_last < test_last, got "
                f"{self.train_first}, {self.train_last}, {self.valid_last}, {self.test_last}"
            )


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long a downstream model trains."""

    max_epochs: int = 10
    patience: int = 1
    """Epochs without a better validation AUC before it stops; the best epoch's weights are kept."""
    monitor: str = ""
    """Task whose AUC decides, averaged over scenarios by positives; empty: the first of tasks."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Downstream runs."""

    data: Path
    reps: Path
    """Root of the representations that dump wrote."""
    pretrain: Path
    """Run folder of the upstream model, for the arm module."""
    output: Path
    upstream: str = ""
    """Version of the representations; empty when there is only one."""
    domain: str = "ads"
    tasks: tuple[str, ...] = ("click",)
    arms: tuple[Arm, ...] = ("vanilla", "sum", "adapter", "module")
    seeds: tuple[int, ...] = (0, 1, 2)
    split: SplitConfig
    fit: FitConfig = field(default_factory=FitConfig)
    overwrite: bool = False
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
    upstream: LfmConfig
    checkpoint: Path
    """Upstream weights the arm module starts from: of the day the first training day's snapshot is as of."""
    days: dict[str, list[int]]
    columns: Tensor
    stop: StopSignal

    @property
    def monitor(self) -> str:
        return self.config.fit.monitor or self.config.tasks[0]


def run(config: Config, ranks: Ranks) -> Path:
    """Train every arm and seed that is not finished yet; return the output folder."""
    setting = _open(config, ranks)
    pending = [
        (arm, seed)
        for seed in config.seeds
        for arm in config.arms
        if _open_output(setting, arm=arm, seed=seed)
    ]
    if not pending:
        raise UserError(
            f"{config.output} already holds every arm and seed; choose another output or pass overwrite=true",
            everywhere=True,
        )
    for arm, seed in pending:
        _run_arm(setting, arm=arm, seed=seed)
    log.info("%d runs are in %s", len(config.arms) * len(config.seeds), config.output)
    return config.output


def _open(config: Config, ranks: Ranks) -> _Setting:
    dataset = open_dataset(config.data, ranks)
    split = config.split
    days = {
        "train": dataset.between(split.train_first, split.train_last),
        "valid": dataset.between(split.train_last, split.valid_last)[1:],
        "test": dataset.between(split.valid_last, split.test_last)[1:],
    }
    unknown = (set(config.tasks) | {config.fit.monitor or config.tasks[0]}) - set(
        dataset.schema.binary_tasks
    )
    if unknown:
        raise UserError(
            f"{config.data} has no task {sorted(unknown)[0]}; it has {', '.join(dataset.schema.binary_tasks)}",
            everywhere=True,
        )
    chosen = select_domains(
        dataset, [config.domain], days=[day for some in days.values() for day in some], ranks=ranks
    )
    for name, some in days.items():
        if not sum(chosen.rows(day) for day in some):
            raise UserError(
                f"{config.data} has no {config.domain} rows in the {name} days", everywhere=True
            )
    columns = torch.tensor(
        [list(dataset.schema.tasks).index(task) for task in config.tasks], device=ranks.device
    )
    setting: _Setting | None = None
    with ranks.together():
        version = resolve_version(config.reps, config.upstream)
        names = all_representations(config.reps, version=version, day=split.train_first)
        as_of = Reps(config.reps, version, names).before(split.train_first).manifest.header.as_of
        checkpoint, upstream = _upstream(config.pretrain, version=version, as_of=as_of)
        setting = _Setting(
            config, ranks, chosen, version, names, upstream, checkpoint, days, columns, StopSignal()
        )
    return setting  # pyright: ignore[reportReturnType]


def _upstream(folder: Path, *, version: str, as_of: int) -> tuple[Path, LfmConfig]:
    metas = {one: check_checkpoint(one) for one in complete_checkpoints(folder / "checkpoints")}
    for checkpoint, meta in metas.items():
        if meta["upstream"] != version:
            raise UserError(
                f"{folder} is upstream {meta['upstream']}, the representations are of {version};"
                " point pretrain and reps at the same upstream"
            )
        if checkpoint.name == f"day={as_of}":
            return checkpoint, parse_config(LfmConfig, meta["model"])
    raise UserError(
        f"{folder} has no checkpoint of day {as_of}, which the snapshots come from; rerun pretrain"
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
                write_text(
                    folder / "config.yaml",
                    config_yaml(replace(setting.config, arms=(arm,), seeds=(seed,))),
                )
    return ranks.broadcast(state) != "finished"


def _build(setting: _Setting, *, arm: Arm, seed: int, dims: dict[str, int]) -> Sharded:
    config = setting.config
    torch.manual_seed(seed)
    model = Downstream(
        setting.dataset.schema,
        config.model,
        arm=arm,
        tasks=len(config.tasks),
        rep_dims=dims,
        upstream=setting.upstream,
    )
    if arm == "module":
        _copy_module(setting, model)
    return shard_model(
        model,
        config=config.shard,
        ranks=setting.ranks,
        seed=seed,
        lr_scales={"module.": config.model.module_lr_scale},
    )


def _copy_module(setting: _Setting, model: Downstream) -> None:
    """Start the isomorphic module from the upstream mix tower's weights; a tensor that matches nothing is an error."""
    config, upstream, columns = setting.config, setting.upstream, setting.columns.cpu()
    names = module_weights(
        domain=config.domain, cross_layers=upstream.cross_layers, mlp_layers=len(upstream.mlp)
    )
    own = dict(model.named_parameters())
    num_tasks = len(setting.dataset.schema.tasks)
    task_axis = {"module.heads.shared": 0, "module.heads.delta": 1, "module.heads.bias": 1}
    targets: dict[str, Tensor] = {}
    for name, source in names.items():
        shape = list(own[name].shape)
        if name in task_axis:
            shape[task_axis[name]] = num_tasks
        targets[source] = torch.empty(shape)
    load_tensors(setting.checkpoint, targets, ranks=setting.ranks)
    with torch.no_grad():
        for name, source in names.items():
            value = targets[source]
            own[name].copy_(
                value.index_select(task_axis[name], columns) if name in task_axis else value
            )
    copied = sum(own[name].numel() for name in names)
    log.info(
        "module: %d tensors (%d numbers) copied from %s", len(names), copied, setting.checkpoint
    )


def _run_arm(setting: _Setting, *, arm: Arm, seed: int) -> None:
    config, ranks = setting.config, setting.ranks
    started = time.monotonic()
    wanted = {
        "vanilla": (),
        "sum": ("user.ur",),
        "adapter": setting.names,
        "module": ("user.ur", "item.ir"),
    }
    reps = Reps(config.reps, setting.version, wanted[arm])
    dims: dict[str, int] = {}
    with ranks.together():
        dims = reps.dims(config.split.train_first) if reps.names else {}
    sharded = _build(setting, arm=arm, seed=seed, dims=dims)
    folder = _folder(config, arm=arm, seed=seed)
    metrics = MetricsLog(folder / "metrics.jsonl", ranks=ranks)
    trainer, scorer = (
        RepsReader(
            Reader(
                setting.dataset,
                config=replace(config.reader, shuffle=shuffle and config.reader.shuffle),
                ranks=ranks,
                seed=seed,
                final_labels=not shuffle,
            ),
            reps,
            ranks=ranks,
        )
        for shuffle in (True, False)
    )
    best_epoch, rows, seconds = _fit(
        setting, sharded, trainer, scorer, metrics=metrics, words=f"{arm} seed {seed}"
    )
    figures: dict[str, Figures] = {}
    for split in ("valid", "test"):
        path = folder / "predictions" / f"split={split}" / f"part-{ranks.rank:05d}.parquet"
        figures[split] = _score(setting, sharded, scorer, split=split, path=path)
    for split, of_split in figures.items():
        for (task, scenario), one in of_split.items():
            metrics.write(f"auc/{task}/{scenario}", one.auc, step=best_epoch, split=split)
    auc = figures["test"][setting.monitor, "all"].auc
    log.info(
        "%s seed %d: test %s AUC %.4f, best epoch %d, %.0f rows/s, %.0f s",
        arm, seed, setting.monitor, auc if auc is not None else float("nan"), best_epoch + 1,
        rows / max(seconds, 1e-9), time.monotonic() - started,
    )  # fmt: skip
    report = {
        "schema_version": 1,
        "stage": "transfer",
        "arm": arm,
        "seed": seed,
        "dataset": str(config.data),
        "upstream": setting.version,
        "digest": _digest(setting),
        "commit": git_commit(),
        "command": f"torchrun -m launch.transfer {' '.join(sys.argv[1:])}",
        "representations": list(reps.names),
        "best_epoch": best_epoch,
        "seconds": time.monotonic() - started,
        "rows_per_second": rows / max(seconds, 1e-9),
        "num_parameters": _num_parameters(setting, sharded),
        "metrics": [row for split, one in figures.items() for row in figure_rows(one, split=split)],
    }
    with ranks.together():
        if ranks.is_first:
            write_json(folder / "report.json", report)


def _num_parameters(setting: _Setting, sharded: Sharded) -> dict[str, Any]:
    tables = sharded.tables
    return {
        "tables": sum(rows * dim for rows, dim in tables.values()),
        "dense": sum(p.numel() for p in sharded.dense_parameters().values()),
    }


def _fit(
    setting: _Setting,
    sharded: Sharded,
    trainer: RepsReader,
    scorer: RepsReader,
    *,
    metrics: MetricsLog,
    words: str,
) -> tuple[int, int, float]:
    """Train until validation stops improving; leave the best weights; return (best epoch, rows trained, seconds)."""
    config, ranks = setting.config, setting.ranks
    best, best_epoch, weights = -1.0, -1, copy_weights(sharded)
    rows, seconds = 0, 0.0

    def loss(batch: Batch) -> Tensor:
        return masked_bce(sharded.model(batch), batch, columns=setting.columns)

    for epoch in range(config.fit.max_epochs):
        started = time.monotonic()
        for day in setting.days["train"]:
            batches = progress(
                trainer.day(day, epoch=epoch),
                total=trainer.num_steps(day),
                words=f"{words} {day}",
                ranks=ranks,
            )
            done = train_pass(
                sharded,
                batches,
                loss=loss,
                batch_size=config.reader.batch_size,
                stop=setting.stop,
                seed=hash((epoch, day)),
            )
            if done.stopped:
                raise UserError(
                    "stopped by a signal; run the same command to go on with the arms that are not finished",
                    everywhere=True,
                )
            rows += setting.dataset.rows(day)
            metrics.write(f"loss/{day}", done.loss, step=epoch, split="train", unit="nats/row")
        seconds += time.monotonic() - started
        figures = _score(setting, sharded, scorer, split="valid", path=None)
        auc = weighted_scenario_auc(figures, task=setting.monitor)
        metrics.write(f"monitor/{setting.monitor}", auc, step=epoch, split="valid")
        if auc > best:
            best, best_epoch, weights = auc, epoch, copy_weights(sharded)
        elif epoch - best_epoch >= config.fit.patience:
            break
    put_weights(sharded, weights)
    return best_epoch, rows, seconds


def _score(
    setting: _Setting, sharded: Sharded, scorer: RepsReader, *, split: str, path: Path | None
) -> Figures:
    schema, tasks = setting.dataset.schema, list(setting.config.tasks)
    scores = Scores(schema, tasks)
    sharded.model.eval()
    with ExitStack() as stack:
        sinks = [scores.update]
        if path is not None:
            sinks.append(ScoreFile(path, schema, tasks, stack=stack).update)
        for day in setting.days[split]:
            score_pass(scorer.day(day), forward=sharded.model, sinks=sinks, ranks=setting.ranks)
    return scores.reduce(setting.ranks)
