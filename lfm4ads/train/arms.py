"""One arm of a transfer study, built: its model on its ranks, its readers, its loss."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lfm4ads.core.ranks import Ranks
from lfm4ads.core.seed import seed_torch
from lfm4ads.data.attach import Reps, RepsReader
from lfm4ads.data.batch import Batch
from lfm4ads.data.index import Dataset
from lfm4ads.data.reader import Reader, ReaderConfig, scoring
from lfm4ads.model.config import LfmConfig
from lfm4ads.model.downstream import Arm, Downstream, DownstreamConfig
from lfm4ads.shard.sharded import ShardConfig, Sharded, shard_model
from lfm4ads.train.fit import Fitter
from lfm4ads.train.levels import fit_levels
from lfm4ads.train.losses import masked_bce
from lfm4ads.train.prior import fit_prior
from lfm4ads.train.transplant import transplant_module


@dataclass(frozen=True, kw_only=True)
class ArmConfig:
    """What a run is; runs of one study differ in arm and seed alone."""

    arm: Arm
    seed: int
    domain: str
    tasks: tuple[str, ...]
    first_day: int
    """First training day; representations keep the scale they have for it."""
    align_days: bool
    reader: ReaderConfig
    model: DownstreamConfig
    shard: ShardConfig


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a run reads."""

    dataset: Dataset
    reps: Path
    version: str
    names: tuple[str, ...]
    """Every representation there is."""
    upstream: LfmConfig
    checkpoint: Path
    """Upstream weights that the arm module starts from."""


def build_arm(config: ArmConfig, sources: Sources, *, ranks: Ranks) -> tuple[Fitter, Reps]:
    """Return the run, ready to fit, and the representations it reads. Collective."""
    reads: dict[Arm, tuple[str, ...]] = {
        "vanilla": (),
        "sum": ("user.ur",),
        "adapter": sources.names,
        "module": ("user.ur", "item.ir"),
    }
    reference = config.first_day if config.align_days else 0
    reps = Reps(sources.reps, sources.version, reads[config.arm], reference)
    trainer, scorer = (
        _reader(config, sources, reps, ranks=ranks, train=train) for train in (True, False)
    )
    sharded = _model(config, sources, reps, trainer, ranks=ranks)
    columns = torch.tensor(_columns(config, sources), device=ranks.device)

    def loss(batch: Batch) -> Tensor:
        return masked_bce(sharded.model(batch), batch, columns=columns)

    fitter = Fitter(
        sharded=sharded,
        schema=sources.dataset.schema,
        tasks=config.tasks,
        trainer=trainer,
        scorer=scorer,
        loss=loss,
        batch_size=config.reader.batch_size,
        seed=config.seed,
        words=f"{config.arm} seed {config.seed}",
    )
    return fitter, reps


def _columns(config: ArmConfig, sources: Sources) -> list[int]:
    """Return the upstream indices of the downstream tasks."""
    tasks = list(sources.dataset.schema.tasks)
    return [tasks.index(task) for task in config.tasks]


def _reader(
    config: ArmConfig, sources: Sources, reps: Reps, *, ranks: Ranks, train: bool
) -> RepsReader:
    rows = config.reader if train else scoring(config.reader)
    plain = Reader(
        sources.dataset, config=rows, ranks=ranks, seed=config.seed, final_labels=not train
    )
    return RepsReader(plain, reps, ranks=ranks)


def _model(
    config: ArmConfig, sources: Sources, reps: Reps, trainer: RepsReader, *, ranks: Ranks
) -> Sharded:
    schema, first = sources.dataset.schema, config.first_day
    dims: dict[str, int] = {}
    with ranks.together():
        dims |= reps.dims(first) if reps.names else {}
    seed_torch(config.seed)
    model = Downstream(
        schema,
        config.model,
        arm=config.arm,
        tasks=_columns(config, sources),
        domain=config.domain,
        rep_dims=dims,
        upstream=sources.upstream,
    )
    if model.standardiser is not None:
        with ranks.together():
            model.standardiser.set_moments(reps.moments(first))
    fit_levels(model, trainer, schema=schema, day=first, ranks=ranks)
    if model.module is None:
        columns = _columns(config, sources)
        fit_prior(model.heads, trainer, day=first, tasks=columns, ranks=ranks)
    else:
        transplant_module(model, sources.checkpoint, ranks=ranks)
    return shard_model(
        model,
        config=config.shard,
        ranks=ranks,
        seed=config.seed,
        lr_scales={"module.": config.model.module_lr_scale},
    )
