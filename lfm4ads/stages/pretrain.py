"""Train the upstream foundation model, day by day, leaving a checkpoint per day.

torchrun --standalone --nproc-per-node 2 -m launch.pretrain configs/pretrain/adsworld.yaml
"""

import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lfm4ads.core.config import config_yaml
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import prepare_output, write_json, write_text
from lfm4ads.core.generations import newest_checkpoint
from lfm4ads.core.log import MetricsLog, log
from lfm4ads.core.ranks import Ranks
from lfm4ads.core.seed import seed_torch
from lfm4ads.core.version import digest, git_commit
from lfm4ads.data.choice import load_choice
from lfm4ads.data.index import Dataset, open_dataset
from lfm4ads.data.reader import Reader, ReaderConfig, scoring
from lfm4ads.model.config import LfmConfig
from lfm4ads.model.lfm import Lfm
from lfm4ads.model.multitask import expand_multitask
from lfm4ads.shard.place import PlaceConfig
from lfm4ads.shard.saver import SaveConfig, Saver
from lfm4ads.shard.sharded import ShardConfig, shard_model
from lfm4ads.shard.state import load_sharded
from lfm4ads.train.daily import BEST, LAST, PREVIOUS, Daily, Position
from lfm4ads.train.explore import ExploreConfig
from lfm4ads.train.levels import fit_levels
from lfm4ads.train.objective import LossConfig, Objective
from lfm4ads.train.upstream import DaysConfig, Work, plan_work
from lfm4ads.train.weights import Survey, take_survey


@dataclass(frozen=True, kw_only=True)
class Config:
    """One upstream run."""

    data: Path
    """Dataset folder with schema.yaml."""
    output: Path
    """Run folder; an unfinished run of the same config in it is continued."""
    days: DaysConfig
    select: Path | None = None
    """``features.yaml`` of select, choose=features: no tower reads another feature."""
    monitor: str = ""
    """Task whose AUC chooses the number of base passes; empty: the mean over tasks."""
    seed: int = 0
    overwrite: bool = False
    extend: bool = False
    """Continue a finished run up to a later days.last."""
    save_every_steps: int = 0
    """Also save in mid-day, so that a killed run repeats little; 0 saves at the end of days."""
    save: SaveConfig = field(default_factory=SaveConfig)
    write_scores: bool = False
    """Write the scores of days scored before they are trained on, to scores/day=YYYYMMDD."""
    explore: ExploreConfig = field(default_factory=ExploreConfig)
    """How scores to rank by are explored, for heads with a variance."""
    spectra_every_days: int = 0
    """Write the information abundance of every table to metrics.jsonl at the end of every so many
    days; 0: never."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    model: LfmConfig = field(default_factory=LfmConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)

    def __post_init__(self) -> None:
        if self.spectra_every_days < 0:
            raise ValueError(f"spectra_every_days must be 0 or more, got {self.spectra_every_days}")
        if self.loss.needs_pairs != self.model.heads.joint:
            raise ValueError("loss.rank=jrc and model.heads.joint=true need each other; set both")
        if self.explore.kind != "greedy" and self.model.heads.kind != "sngp":
            raise ValueError(
                f"explore.kind={self.explore.kind} needs a variance; set model.heads.kind=sngp"
            )
        if self.shard.precision != "float32" and self.model.heads.kind == "sngp":
            raise ValueError(
                "model.heads.kind=sngp adds up what it has seen in float32; leave shard.precision"
            )
        if self.explore.kind != "greedy" and not self.write_scores:
            raise ValueError(
                f"explore.kind={self.explore.kind} changes what is written; set write_scores=true"
            )


def upstream_version(config: Config, dataset: Dataset) -> str:
    """Return the name of the lineage.

    Continuing the run to later days does not change it, nor does another placement of tables or
    pipelining, which learns the same.
    """
    same = replace(
        config,
        data=Path(),
        output=Path(),
        overwrite=False,
        extend=False,
        save_every_steps=0,
        save=SaveConfig(),
        write_scores=False,
        explore=ExploreConfig(),
        spectra_every_days=0,
        shard=replace(config.shard, place=PlaceConfig(), pipelined=False),
        select=None,
        days=replace(config.days, last=99999999),
    )
    return digest(same, dataset.schema)


def run(config: Config, ranks: Ranks) -> Path:
    """Train; return the run folder."""
    started = time.monotonic()
    dataset = open_dataset(config.data, ranks)
    config = _choose(config, dataset, ranks)
    model_config = expand_multitask(config.model, tasks=list(dataset.schema.tasks))
    config = replace(config, model=model_config)
    work = plan_work(config.days, dataset)
    if config.monitor and config.monitor not in dataset.schema.binary_tasks:
        raise UserError(
            f"monitor is {config.monitor}, but the tasks are"
            f" {', '.join(dataset.schema.binary_tasks)}",
            everywhere=True,
        )
    version = upstream_version(config, dataset)
    resume = _open_output(config, ranks, version=version, work=work)
    trainer = _trainer(config, dataset, ranks)
    scorer = Reader(dataset, config=scoring(config.reader), ranks=ranks, seed=config.seed)
    seed_torch(config.seed)
    model = Lfm(dataset.schema, config.model)
    first = work.base_days[0]
    if resume is None:
        fit_levels(model, trainer, schema=dataset.schema, day=first, ranks=ranks)
    sharded = shard_model(model, config=config.shard, ranks=ranks, seed=config.seed)
    meta = load_sharded(resume, sharded) if resume else {}
    position = Position(**meta["position"]) if resume else Position()
    log.info("upstream %s, %s", version, f"resumed from {resume}" if resume else "from scratch")
    survey = _survey(config, trainer, day=first, ranks=ranks, meta=meta)
    daily = Daily(
        sharded=sharded,
        work=work,
        position=position,
        trainer=trainer,
        scorer=scorer,
        objective=Objective(config.loss, schema=dataset.schema, ranks=ranks, survey=survey),
        explore=config.explore,
        batch_size=config.reader.batch_size,
        seed=config.seed,
        monitor=config.monitor,
        output=config.output,
        meta={
            "upstream": version,
            "model": config_yaml(config.model),
            "ids": config_yaml(config.shard.ids),
            "survey": survey.to_dict() if survey else None,
        },
        metrics=MetricsLog(
            config.output / "metrics.jsonl", ranks=ranks, keep_steps=position.total_steps
        ),
        saver=Saver(sharded, config=config.save),
        save_every_steps=config.save_every_steps,
        write_scores=config.write_scores,
        stop=ranks.stop,
        spectra_every_days=config.spectra_every_days,
    )
    daily.run()
    _finish(config, daily, dataset, seconds=time.monotonic() - started)
    return config.output


def _choose(config: Config, dataset: Dataset, ranks: Ranks) -> Config:
    """Return the config with what select left out added to ``model.without``."""
    if config.select is None:
        return config
    chosen: list[str] = []
    with ranks.together():
        choice = load_choice(config.select, features=dataset.schema.features)
        chosen += choice.keep_features(tuple(dataset.schema.features))
    left = (name for name in dataset.schema.features if name not in chosen)
    without = tuple(dict.fromkeys([*config.model.without, *left]))
    return replace(config, model=replace(config.model, without=without))


def _trainer(config: Config, dataset: Dataset, ranks: Ranks) -> Reader:
    return Reader(
        dataset,
        config=config.reader,
        ranks=ranks,
        seed=config.seed,
        final_labels=False,
        wait_days=config.days.wait_days,
    )


def _survey(
    config: Config, trainer: Reader, *, day: int, ranks: Ranks, meta: dict[str, Any]
) -> Survey | None:
    if not config.loss.needs_survey:
        return None
    if meta:
        return Survey.from_dict(meta["survey"])
    schema = trainer.dataset.schema
    return take_survey(trainer.day(day), schema=schema, repeat=config.loss.repeat, ranks=ranks)


def _open_output(config: Config, ranks: Ranks, *, version: str, work: Work) -> Path | None:
    """Make or re-enter the run folder; return the checkpoint to go on from. Collective."""
    if config.extend:
        # A run of another config is refused while the mark of its end still stands.
        _newest_checkpoint(config.output, ranks, version=version, work=work)
        with ranks.together():
            if ranks.is_first:
                (config.output / "report.json").unlink(missing_ok=True)
    with ranks.together():
        if ranks.is_first:
            prepare_output(config.output, overwrite=config.overwrite)
    resume = _newest_checkpoint(config.output, ranks, version=version, work=work)
    with ranks.together():
        if ranks.is_first:
            write_text(config.output / "config.yaml", config_yaml(config))
    return resume


def _newest_checkpoint(output: Path, ranks: Ranks, *, version: str, work: Work) -> Path | None:
    def needs(meta: dict[str, Any]) -> str:
        """Until the base is settled, its best pass is where a run goes back to."""
        position = meta["position"]
        chosen = work.valid_days and position["best_epoch"] >= 0
        return BEST if chosen and position["index"] <= work.settle_at() else ""

    found = newest_checkpoint(
        output / "checkpoints",
        ranks=ranks,
        progress=lambda meta: _progress(meta["position"]),
        needs=needs,
        rolling=(LAST, PREVIOUS),
    )
    if found is None:
        return None
    newest, meta = found
    if meta["upstream"] != version:
        raise UserError(
            f"{output} holds a run of another config (upstream {meta['upstream']}, this one is"
            f" {version}); choose another output or remove it",
            everywhere=True,
        )
    return newest


def _progress(position: dict[str, int]) -> tuple[int, int]:
    return position["index"], position["step"]


def _finish(config: Config, daily: Daily, dataset: Dataset, *, seconds: float) -> None:
    sharded, ranks = daily.sharded, daily.ranks
    report = {
        "schema_version": 1,
        "stage": "pretrain",
        "upstream": daily.meta["upstream"],
        "dataset": str(dataset.path),
        "commit": git_commit(),
        "seconds": seconds,
        "rows_per_second": _median(daily.metrics.values("rate")),
        "steps": daily.position.total_steps,
        "best_epoch": daily.position.best_epoch,
        "num_parameters": sharded.num_parameters(),
        "metrics": daily.position.figures,
        "gates": daily.position.gates,
    }
    with ranks.together():
        if ranks.is_first:
            write_json(config.output / "report.json", report)
    log.info("upstream %s is in %s (%.0f s)", report["upstream"], config.output, seconds)


def _median(values: list[float]) -> float | None:
    """Return the median: a pass that waited for a cold disk or compiled a kernel says nothing."""
    return statistics.median(values) if values else None
