"""One arm of a transfer study, built: its model on its ranks, its readers, its loss."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from lfm4ads.core.ranks import Ranks
from lfm4ads.core.seed import seed_torch
from lfm4ads.data.attach import KeptTables, Reps, RepsReader
from lfm4ads.data.batch import Batch
from lfm4ads.data.index import Dataset
from lfm4ads.data.reader import Reader, ReaderConfig, scoring
from lfm4ads.data.rows import KeptRows
from lfm4ads.model.arm import EVERYTHING, ArmConfig
from lfm4ads.model.config import LfmConfig
from lfm4ads.model.downstream import Downstream, DownstreamConfig
from lfm4ads.model.isomorphic import Twin, module_weights
from lfm4ads.nn.heads import ScenarioHeads
from lfm4ads.shard.idspace import IdsConfig
from lfm4ads.shard.sharded import ShardConfig, Sharded, shard_model
from lfm4ads.train.fit import Fitter
from lfm4ads.train.levels import fit_levels
from lfm4ads.train.losses import masked_bce
from lfm4ads.train.prior import fit_prior
from lfm4ads.train.transplant import Coverage, transplant


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a run is; runs of one study differ in arm and seed alone."""

    name: str
    """Of the arm."""
    arm: ArmConfig
    """With patterns."""
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
    """Upstream weights that a module or a copy starts from."""
    ids: IdsConfig = field(default_factory=IdsConfig)
    """How the upstream's managed tables give rows to ids; a copy of them goes on so."""
    snapshot: int = 0
    """As-of day that every sample reads; 0: the newest before the sample's own day."""
    kept: KeptTables = field(default_factory=KeptTables)
    """Vectors that all arms share."""
    rows: KeptRows = field(default_factory=KeptRows)
    """Decoded rows that all arms share."""


@dataclass(frozen=True)
class Built:
    """A run, ready to fit."""

    fitter: Fitter
    reads: tuple[str, ...]
    """Representations it reads."""
    coverage: Coverage | None
    """What it took over of the upstream's weights; None where the arm takes none."""


def build_arm(config: RunConfig, sources: Sources, *, ranks: Ranks) -> Built:
    """Return the run. Collective."""
    arm = config.arm.named(sources.names)
    reference = config.first_day if config.align_days else 0
    reps = Reps(sources.reps, sources.version, arm.reads, reference, sources.snapshot)
    trainer, scorer = (
        _reader(config, sources, reps, ranks=ranks, train=train) for train in (True, False)
    )
    config = replace(config, arm=arm)
    sharded, coverage = _model(config, sources, reps, trainer, ranks=ranks)
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
        words=f"{config.name} seed {config.seed}",
    )
    return Built(fitter, arm.reads, coverage)


def _columns(config: RunConfig, sources: Sources) -> list[int]:
    """Return the upstream indices of the downstream tasks."""
    tasks = list(sources.dataset.schema.tasks)
    return [tasks.index(task) for task in config.tasks]


def _reader(
    config: RunConfig, sources: Sources, reps: Reps, *, ranks: Ranks, train: bool
) -> RepsReader:
    rows = config.reader if train else scoring(config.reader)
    plain = Reader(
        sources.dataset,
        config=rows,
        ranks=ranks,
        seed=config.seed,
        final_labels=not train,
        kept=sources.rows,
    )
    return RepsReader(plain, reps, ranks=ranks, kept=sources.kept)


def _model(
    config: RunConfig, sources: Sources, reps: Reps, trainer: RepsReader, *, ranks: Ranks
) -> tuple[Sharded, Coverage | None]:
    seed_torch(config.seed)
    if config.arm.copy:
        return _twin(config, sources, trainer, ranks=ranks)
    dims: dict[str, int] = {}
    schema, first, columns = sources.dataset.schema, config.first_day, _columns(config, sources)
    with ranks.together():
        dims |= reps.dims(first) if reps.names else {}
    model = Downstream(
        schema,
        config.model,
        arm=config.arm,
        tasks=columns,
        domain=config.domain,
        rep_dims=dims,
        upstream=sources.upstream,
    )
    if model.entry.standardiser is not None:
        with ranks.together():
            model.entry.standardiser.set_moments(reps.moments(first))
    fit_levels(model, trainer, schema=schema, day=first, ranks=ranks)
    if config.arm.module in ("", "hidden"):
        fit_prior(model.heads, trainer, day=first, tasks=columns, ranks=ranks)
    sharded = shard_model(
        model,
        config=config.shard,
        ranks=ranks,
        seed=config.seed,
        lr_scales={"module.": config.model.module_lr_scale},
    )
    if not config.arm.module:
        return sharded, None
    names = module_weights(sharded.model.state_dict())
    return sharded, transplant(sharded, names, sources.checkpoint, prefix="module.")


def _twin(
    config: RunConfig, sources: Sources, trainer: RepsReader, *, ranks: Ranks
) -> tuple[Sharded, Coverage]:
    """Return the upstream's network with its first layers copied."""
    schema, first = sources.dataset.schema, config.first_day
    model = Twin(schema, sources.upstream, domain=config.domain, tasks=_columns(config, sources))
    names = model.copied(config.arm.copy)
    fit_levels(model, trainer, schema=schema, day=first, ranks=ranks)
    heads = model.network.heads
    if config.arm.copy != EVERYTHING and isinstance(heads, ScenarioHeads):
        every = list(range(len(schema.tasks)))
        fit_prior(heads, trainer, day=first, tasks=every, ranks=ranks)
    scale = config.model.copy_lr_scale
    optim = config.shard.optim
    optim = replace(optim, dense_lr=scale * optim.dense_lr, sparse_lr=scale * optim.sparse_lr)
    own = replace(config.shard, optim=optim, ids=sources.ids)
    sharded = shard_model(model, config=own, ranks=ranks, seed=config.seed)
    return sharded, transplant(sharded, names, sources.checkpoint, prefix="network.")
