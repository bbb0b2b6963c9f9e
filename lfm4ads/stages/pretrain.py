"""Train the upstream foundation model, day by day, leaving a checkpoint per day.

torchrun --standalone --nproc-per-node 2 -m launch.pretrain configs/pretrain/adsworld.yaml
"""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lfm4ads.core.checkpoint import check_checkpoint, complete_checkpoints
from lfm4ads.core.config import config_yaml
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import prepare_output, write_json, write_text
from lfm4ads.core.log import MetricsLog, log
from lfm4ads.core.ranks import Ranks, StopSignal
from lfm4ads.core.version import digest, git_commit
from lfm4ads.data.batch import Batch
from lfm4ads.data.index import Dataset, open_dataset
from lfm4ads.data.reader import Reader, ReaderConfig
from lfm4ads.model.lfm import Lfm, LfmConfig
from lfm4ads.shard.sharded import ShardConfig, Sharded, shard_model
from lfm4ads.shard.state import load_sharded, save_sharded
from lfm4ads.train.loop import progress, train_pass
from lfm4ads.train.losses import masked_bce
from lfm4ads.train.scores import Figures, Scores, figure_rows, mean_auc, score_pass
from lfm4ads.train.upstream import DaysConfig, Item, Work, plan_work


@dataclass(frozen=True, kw_only=True)
class Config:
    """One upstream run."""

    data: Path
    """Dataset folder with schema.yaml."""
    output: Path
    """Run folder; an unfinished run of the same config in it is continued."""
    days: DaysConfig
    monitor: str = ""
    """Task whose AUC chooses the number of base passes; empty: the mean over tasks."""
    seed: int = 0
    overwrite: bool = False
    extend: bool = False
    """Continue a finished run up to a later days.last."""
    save_every_steps: int = 0
    """Also save in mid-day, so that a killed run repeats little; 0 saves at the end of days only."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    model: LfmConfig = field(default_factory=LfmConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)


@dataclass
class _State:
    """Where the run is; everything a restart needs beside weights and optimiser state."""

    index: int = 0
    """Work item."""
    step: int = 0
    """Steps done inside the item."""
    total_steps: int = 0
    best: float = -1.0
    best_epoch: int = -1


@dataclass
class _Run:
    """What the pieces of work share."""

    config: Config
    ranks: Ranks
    version: str
    work: Work
    state: _State
    sharded: Sharded
    trainer: Reader
    scorer: Reader
    metrics: MetricsLog
    stop: StopSignal
    figures: dict[str, Any]

    @property
    def checkpoints(self) -> Path:
        return self.config.output / "checkpoints"


def upstream_version(config: Config, dataset: Dataset) -> str:
    """Return the name of the lineage: it does not change when the run is continued to later days."""
    same = replace(config, output=Path(), overwrite=False, extend=False, save_every_steps=0, data=Path(),
                   days=replace(config.days, last=99999999))  # fmt: skip
    return digest(same, dataset.schema)


def run(config: Config, ranks: Ranks) -> Path:
    """Train; return the run folder."""
    started = time.monotonic()
    dataset = open_dataset(config.data, ranks)
    work = plan_work(config.days, dataset)
    if config.monitor and config.monitor not in dataset.schema.tasks:
        raise UserError(
            f"monitor is {config.monitor}, but the tasks are {', '.join(dataset.schema.tasks)}",
            everywhere=True,
        )
    version = upstream_version(config, dataset)
    resume = _open_output(config, ranks, version=version)
    torch.manual_seed(config.seed)
    sharded = shard_model(
        Lfm(dataset.schema, config.model), config=config.shard, ranks=ranks, seed=config.seed
    )
    state = _State(**load_sharded(resume, sharded)["state"]) if resume else _State()
    log.info(
        "upstream %s: %d days, %s",
        version,
        len(dataset.days),
        "resumed" if resume else "from scratch",
    )
    readers = [
        Reader(dataset, config=config.reader, ranks=ranks, seed=config.seed, final_labels=final)
        for final in (False, True)
    ]
    metrics = MetricsLog(config.output / "metrics.jsonl", ranks=ranks, keep_steps=state.total_steps)
    current = _Run(
        config, ranks, version, work, state, sharded, *readers, metrics, StopSignal(), {}
    )
    while state.index < len(work.items):
        _do(current, work.items[state.index])
    seconds = time.monotonic() - started
    _finish(current, dataset, seconds=seconds)
    return config.output


def _open_output(config: Config, ranks: Ranks, *, version: str) -> Path | None:
    """Make or re-enter the run folder; return the checkpoint to go on from."""
    resume = ""
    with ranks.together():
        if ranks.is_first:
            if config.extend:
                (config.output / "report.json").unlink(missing_ok=True)
            prepare_output(config.output, overwrite=config.overwrite)
            found = complete_checkpoints(config.output / "checkpoints")
            if found:
                metas = {
                    folder: check_checkpoint(folder) for folder in found if folder.name != "best"
                }
                latest = max(metas, key=lambda folder: metas[folder]["state"]["total_steps"])
                if metas[latest]["upstream"] != version:
                    raise UserError(
                        f"{config.output} holds an unfinished run of another config (upstream"
                        f" {metas[latest]['upstream']}, this one is {version}); choose another output or remove it"
                    )
                resume = str(latest)
            write_text(config.output / "config.yaml", config_yaml(config))
    resume = ranks.broadcast(resume)
    return Path(resume) if resume else None


def _do(run: _Run, item: Item) -> None:
    state = run.state
    if item.kind == "train":
        _train(run, item)
    elif item.kind == "validate":
        _validate(run, item)
    elif item.kind == "score":
        _score(run, item.day, split="prequential")
        state.index += 1
    elif item.kind == "settle":
        if run.work.valid_days:
            load_sharded(run.checkpoints / "best", run.sharded)
        state.index += 1
        _save(
            run,
            f"day={item.day}",
            day=item.day,
            seen_through=max(item.day, *run.work.valid_days, 0),
        )
    else:
        state.index += 1
        _save(
            run,
            f"day={item.day}",
            day=item.day,
            seen_through=max(item.day, *run.work.valid_days, 0),
        )
    state.step = 0


def _train(run: _Run, item: Item) -> None:
    config, state = run.config, run.state
    total = run.trainer.num_steps(item.day)
    batches = run.trainer.day(item.day, epoch=item.epoch, start_step=state.step)
    started, first = time.monotonic(), state.step

    def loss(batch: Batch) -> Tensor:
        return masked_bce(run.sharded.model(batch).logits, batch)

    def after_step() -> None:
        state.step += 1
        state.total_steps += 1
        if (
            config.save_every_steps
            and state.total_steps % config.save_every_steps == 0
            and state.step < total
        ):
            _save(run, "last", day=item.day)

    done = train_pass(
        run.sharded,
        progress(batches, total=total - state.step, words=f"train {item.day}", ranks=run.ranks),
        loss=loss,
        batch_size=config.reader.batch_size,
        stop=run.stop,
        after_step=after_step,
        seed=hash((config.seed, state.index, state.step)),
    )
    if done.stopped:
        _save(run, "last", day=item.day)
        raise UserError(
            f"stopped by a signal at step {state.total_steps}, which is saved; run the same command to go on",
            everywhere=True,
        )
    seconds = time.monotonic() - started
    rows = (state.step - first) * config.reader.batch_size
    log.info(
        "day %d pass %d: loss %.4f a row, %.0f rows/s",
        item.day,
        item.epoch + 1,
        done.loss,
        rows / seconds,
    )
    run.metrics.write("loss", done.loss, step=state.total_steps, split="train", unit="nats/row")
    run.metrics.write("rate", rows / seconds, step=state.total_steps, split="train", unit="rows/s")
    state.index += 1


def _validate(run: _Run, item: Item) -> None:
    state = run.state
    scores = Scores(run.scorer.dataset.schema, run.scorer.dataset.schema.binary_tasks)
    for day in run.work.valid_days:
        _score_into(run, day, scores)
    figures = scores.reduce(run.ranks)
    _write_figures(run, figures, split="valid", day=item.day)
    auc = mean_auc(figures, monitor=run.config.monitor)
    log.info(
        "base pass %d: validation AUC %.4f (best %.4f)", item.epoch + 1, auc, max(auc, state.best)
    )
    if auc > state.best:
        state.best, state.best_epoch = auc, item.epoch
        state.index += 1
        _save(run, "best", day=item.day)
    else:
        state.index = run.work.settle_at()


def _score(run: _Run, day: int, *, split: str) -> None:
    scores = Scores(run.scorer.dataset.schema, run.scorer.dataset.schema.binary_tasks)
    _score_into(run, day, scores)
    figures = scores.reduce(run.ranks)
    _write_figures(run, figures, split=split, day=day)
    words = ", ".join(
        f"{task} {one.auc:.4f}"
        for (task, where), one in figures.items()
        if where == "all" and one.auc is not None
    )
    log.info("day %d scored before training: AUC %s", day, words)


def _score_into(run: _Run, day: int, scores: Scores) -> None:
    schema = run.scorer.dataset.schema
    columns = torch.tensor(
        [list(schema.tasks).index(task) for task in schema.binary_tasks], device=run.ranks.device
    )
    run.sharded.model.eval()
    batches = progress(
        run.scorer.day(day), total=run.scorer.num_steps(day), words=f"score {day}", ranks=run.ranks
    )
    score_pass(
        batches,
        forward=lambda batch: run.sharded.model(batch).logits[:, columns],
        sinks=[scores.update],
        ranks=run.ranks,
    )


def _write_figures(run: _Run, figures: Figures, *, split: str, day: int) -> None:
    run.figures[f"{split}:{day}"] = figure_rows(figures, split=split)
    for (task, scenario), one in figures.items():
        name = f"auc/{task}/{scenario}"
        run.metrics.write(name, one.auc, step=run.state.total_steps, split=f"{split}:{day}")


def _save(run: _Run, name: str, *, day: int, seen_through: int = 0) -> None:
    meta = {
        "upstream": run.version,
        "day": day,
        "seen_through": seen_through,
        "state": vars(run.state) | ({"step": 0} if name != "last" else {}),
        "model": config_yaml(run.config.model),
    }
    save_sharded(run.checkpoints / name, run.sharded, meta=meta)


def _finish(run: _Run, dataset: Dataset, *, seconds: float) -> None:
    with run.ranks.together():
        if run.ranks.is_first:
            write_json(
                run.config.output / "report.json",
                {
                    "schema_version": 1,
                    "stage": "pretrain",
                    "upstream": run.version,
                    "dataset": str(dataset.path),
                    "commit": git_commit(),
                    "seconds": seconds,
                    "steps": run.state.total_steps,
                    "best_epoch": run.state.best_epoch,
                    "num_parameters": {
                        "tables": sum(s.rows * s.dim for s in dataset.schema.tables.values()),
                        "dense": sum(p.numel() for p in run.sharded.dense_parameters().values()),
                    },
                    "metrics": [row for rows in run.figures.values() for row in rows],
                },
            )
    log.info("upstream %s is in %s (%.0f s)", run.version, run.config.output, seconds)
