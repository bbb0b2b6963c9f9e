"""Train the upstream foundation model, day by day, leaving a checkpoint per day.

torchrun --standalone --nproc-per-node 2 -m launch.pretrain configs/pretrain/adsworld.yaml
"""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from lfm4ads.core.checkpoint import check_checkpoint, complete_checkpoints
from lfm4ads.core.config import config_yaml
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import prepare_output, write_json, write_text
from lfm4ads.core.log import MetricsLog, log
from lfm4ads.core.ranks import Ranks, StopSignal
from lfm4ads.core.seed import seed_torch
from lfm4ads.core.version import digest, git_commit
from lfm4ads.data.index import Dataset, open_dataset
from lfm4ads.data.reader import Reader, ReaderConfig, scoring
from lfm4ads.model.lfm import Lfm, LfmConfig
from lfm4ads.shard.sharded import ShardConfig, shard_model
from lfm4ads.shard.state import load_sharded
from lfm4ads.train.daily import Daily, Position
from lfm4ads.train.upstream import DaysConfig, plan_work


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
    """Also save in mid-day, so that a killed run repeats little; 0 saves at the end of days."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    model: LfmConfig = field(default_factory=LfmConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)


def upstream_version(config: Config, dataset: Dataset) -> str:
    """Return the name of the lineage, which continuing the run to later days does not change."""
    same = replace(
        config,
        data=Path(),
        output=Path(),
        overwrite=False,
        extend=False,
        save_every_steps=0,
        days=replace(config.days, last=99999999),
    )
    return digest(same, dataset.schema)


def run(config: Config, ranks: Ranks) -> Path:
    """Train; return the run folder."""
    started = time.monotonic()
    dataset = open_dataset(config.data, ranks)
    work = plan_work(config.days, dataset)
    if config.monitor and config.monitor not in dataset.schema.binary_tasks:
        raise UserError(
            f"monitor is {config.monitor}, but the tasks are"
            f" {', '.join(dataset.schema.binary_tasks)}",
            everywhere=True,
        )
    version = upstream_version(config, dataset)
    resume = _open_output(config, ranks, version=version)
    seed_torch(config.seed)
    model = Lfm(dataset.schema, config.model)
    sharded = shard_model(model, config=config.shard, ranks=ranks, seed=config.seed)
    position = Position(**load_sharded(resume, sharded)["position"]) if resume else Position()
    log.info("upstream %s, %s", version, f"resumed from {resume}" if resume else "from scratch")
    trainer, scorer = (
        Reader(dataset, config=rows, ranks=ranks, seed=config.seed, final_labels=final)
        for rows, final in ((config.reader, False), (scoring(config.reader), True))
    )
    daily = Daily(
        sharded=sharded,
        work=work,
        position=position,
        trainer=trainer,
        scorer=scorer,
        batch_size=config.reader.batch_size,
        seed=config.seed,
        monitor=config.monitor,
        checkpoints=config.output / "checkpoints",
        meta={"upstream": version, "model": config_yaml(config.model)},
        metrics=MetricsLog(
            config.output / "metrics.jsonl", ranks=ranks, keep_steps=position.total_steps
        ),
        save_every_steps=config.save_every_steps,
        stop=StopSignal(),
    )
    daily.run()
    _finish(config, daily, dataset, seconds=time.monotonic() - started)
    return config.output


def _open_output(config: Config, ranks: Ranks, *, version: str) -> Path | None:
    """Make or re-enter the run folder; return the checkpoint to go on from."""
    resume = ""
    with ranks.together():
        if ranks.is_first:
            if config.extend:
                # A run of another config is refused while the mark of its end still stands.
                _newest_checkpoint(config.output, version=version)
                (config.output / "report.json").unlink(missing_ok=True)
            prepare_output(config.output, overwrite=config.overwrite)
            resume = _newest_checkpoint(config.output, version=version)
            write_text(config.output / "config.yaml", config_yaml(config))
    resume = ranks.broadcast(resume)
    return Path(resume) if resume else None


def _newest_checkpoint(output: Path, *, version: str) -> str:
    found = complete_checkpoints(output / "checkpoints")
    metas = {one: check_checkpoint(one) for one in found}
    if not metas:
        return ""
    newest = max(metas, key=lambda one: _progress(metas[one]["position"]))
    if metas[newest]["upstream"] != version:
        raise UserError(
            f"{output} holds a run of another config (upstream {metas[newest]['upstream']}, this"
            f" one is {version}); choose another output or remove it"
        )
    return str(newest)


def _progress(position: dict[str, int]) -> tuple[int, int]:
    return position["index"], position["step"]


def _finish(config: Config, daily: Daily, dataset: Dataset, *, seconds: float) -> None:
    sharded, ranks = daily.sharded, daily.ranks
    dense = sharded.dense_parameters()
    report = {
        "schema_version": 1,
        "stage": "pretrain",
        "upstream": daily.meta["upstream"],
        "dataset": str(dataset.path),
        "commit": git_commit(),
        "seconds": seconds,
        "steps": daily.position.total_steps,
        "best_epoch": daily.position.best_epoch,
        "num_parameters": {
            "tables": sum(rows * dim for rows, dim in sharded.tables.values()),
            "dense": sum(p.numel() for name, p in dense.items() if "embedding_bags" not in name),
        },
        "metrics": daily.position.figures,
    }
    with ranks.together():
        if ranks.is_first:
            write_json(config.output / "report.json", report)
    log.info("upstream %s is in %s (%.0f s)", report["upstream"], config.output, seconds)
