"""Dump UR, IR and the folded cross representations, as of each day.

torchrun --standalone --nproc-per-node 2 -m launch.dump configs/dump/adsworld.yaml

A day's events are folded into CR with the checkpoint of the day before, which has not seen their
labels; UR and IR come from the checkpoint of the day itself. The days of the base, for which there
is no earlier checkpoint, use the base's own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lfm4ads.core.errors import UserError
from lfm4ads.core.log import log
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.accumulate import SideAccumulator
from lfm4ads.data.batch import Batch
from lfm4ads.data.index import DAY_MS, Dataset, open_dataset
from lfm4ads.data.manifest import Header, RepSide, RepSpec, available_days
from lfm4ads.data.reader import Reader, ReaderConfig
from lfm4ads.data.reps import open_snapshot, write_snapshot
from lfm4ads.data.side import SideStates, route_side
from lfm4ads.data.snapshot import Snapshot
from lfm4ads.model.lfm import Lfm, LfmOutput
from lfm4ads.shard.place import PlaceConfig
from lfm4ads.shard.sharded import ShardConfig, Sharded, shard_model
from lfm4ads.shard.state import load_weights
from lfm4ads.train.lineage import Lineage, open_lineage
from lfm4ads.train.loop import agreed, progress

SIDES: tuple[RepSide, RepSide] = ("user", "item")
_Piles = dict[RepSide, SideAccumulator]


@dataclass(frozen=True, kw_only=True)
class Config:
    """One dump."""

    data: Path
    pretrain: Path
    """Run folder of the upstream model."""
    output: Path
    """Root of the representations."""
    first_as_of: int = 0
    """First day that gets a snapshot; 0: the first day the base's checkpoint may be used for."""
    last_as_of: int = 0
    """Last day that gets one; 0: the day of the newest checkpoint."""
    layer: str = ""
    """Layer of the mix tower that is folded into CR; empty: the penultimate, the last MLP layer."""
    events: tuple[str, ...] = ("",)
    """What is folded: "" every exposure, a task's name the rows where its label is 1."""
    half_life_days: float = 7.0
    overwrite: bool = False
    reader: ReaderConfig = field(default_factory=lambda: ReaderConfig(shuffle=False))
    place: PlaceConfig = field(default_factory=PlaceConfig)

    def __post_init__(self) -> None:
        if not self.events:
            raise ValueError("events must name at least one kind; use [''] for every exposure")
        if self.half_life_days <= 0:
            raise ValueError(f"half_life_days must be positive, got {self.half_life_days}")


@dataclass
class _Run:
    config: Config
    ranks: Ranks
    upstream: Lineage
    specs: tuple[RepSpec, ...]
    dataset: Dataset
    reader: Reader
    sharded: Sharded
    loaded: Path | None = None

    def load(self, day: int) -> None:
        """Put the weights of a day's checkpoint into the model."""
        if self.loaded != self.upstream.days[day]:
            load_weights(self.upstream.days[day], self.sharded)
            self.loaded = self.upstream.days[day]


_Take = Callable[[_Run, Batch, LfmOutput, _Piles], None]


def run(config: Config, ranks: Ranks) -> Path:
    """Write a snapshot per day; return the version's folder. A rerun completes a killed run."""
    with ranks.together():
        upstream = open_lineage(config.pretrain)
    dataset = open_dataset(config.data, ranks)
    _check_events(config, dataset)
    model = Lfm(dataset.schema, upstream.config)
    specs = _specs(config, dataset, model)
    wanted = _wanted_days(config, dataset, upstream)
    sharded = shard_model(
        model,
        config=ShardConfig(place=config.place),
        ranks=ranks,
        seed=0,
    )
    # An event of a later day must not decide what a day's snapshot holds.
    reader = Reader(dataset, config=config.reader, ranks=ranks, seed=0, final_labels=False)
    current = _Run(config, ranks, upstream, specs, dataset, reader, sharded)
    previous = _resume(config, ranks, upstream, wanted)
    _write_days(current, wanted, previous)
    return config.output / f"upstream={upstream.version}"


def _check_events(config: Config, dataset: Dataset) -> None:
    known = ("", *dataset.schema.binary_tasks)
    for event in config.events:
        if event not in known:
            raise UserError(
                f"events names {event}; the tasks are {', '.join(dataset.schema.binary_tasks)}",
                everywhere=True,
            )


def _specs(config: Config, dataset: Dataset, model: Lfm) -> tuple[RepSpec, ...]:
    dims = model.mix.layer_dims
    layer = config.layer or list(dims)[-1]
    if layer not in dims:
        raise UserError(
            f"layer {layer} is not in the model; it has {', '.join(dims)}", everywhere=True
        )
    towers: tuple[tuple[str, RepSide, int], ...] = (
        ("ur", "user", model.rep_dims[0]),
        ("ir", "item", model.rep_dims[1]),
    )
    latest = [
        RepSpec(name=name, side=side, kind="latest", dim=dim, read="sum", layer="towers")
        for name, side, dim in towers
    ]
    decayed = [
        RepSpec(
            name="_".join(part for part in ("cr", domain, layer, event) if part),
            side=side,
            kind="decayed",
            dim=dims[layer],
            read="layernorm",
            half_life_ms=config.half_life_days * DAY_MS,
            layer=layer,
            domain=domain,
            event=event,
        )
        for side in SIDES
        for domain in dataset.schema.domains
        for event in config.events
    ]
    return (*latest, *decayed)


def _wanted_days(config: Config, dataset: Dataset, upstream: Lineage) -> list[int]:
    first = config.first_as_of or upstream.seen_through
    last = config.last_as_of or max(upstream.days)
    if first < upstream.seen_through:
        raise UserError(
            f"first_as_of is {first}, but the first checkpoint has seen labels through"
            f" {upstream.seen_through}: a leak; use that day or a later one",
            everywhere=True,
        )
    wanted = dataset.between(first, last)
    missing = [day for day in wanted if day not in upstream.days]
    if missing:
        raise UserError(
            f"{config.pretrain} has no checkpoint of day {missing[0]}; it has"
            f" {min(upstream.days)} to {max(upstream.days)}",
            everywhere=True,
        )
    return wanted


def _resume(config: Config, ranks: Ranks, upstream: Lineage, wanted: list[int]) -> Snapshot | None:
    """Return the newest snapshot of an unfinished dump that this one can go on from."""
    previous: Snapshot | None = None
    with ranks.together():
        done = [] if config.overwrite else available_days(config.output, upstream.version)
        done = [day for day in done if day in wanted]
        if wanted[-1] in done:
            raise UserError(
                f"{config.output} already holds snapshots of upstream {upstream.version} through"
                f" {wanted[-1]}; choose another output or pass overwrite=true"
            )
        if done:
            previous = open_snapshot(config.output, version=upstream.version, as_of=done[-1])
    return previous


def _write_days(run: _Run, wanted: list[int], previous: Snapshot | None) -> None:
    after = previous.manifest.header.as_of if previous else 0
    days = [day for day in sorted(run.dataset.days) if after < day <= wanted[-1]]
    piles = _piles(run.specs)
    for day in days:
        _fold_day(run, day, piles)
        if day in wanted:
            previous = _write_day(run, day, piles, previous)
            piles = _piles(run.specs)


def _piles(specs: tuple[RepSpec, ...]) -> _Piles:
    return {side: SideAccumulator([spec for spec in specs if spec.side == side]) for side in SIDES}


def _fold_day(run: _Run, day: int, piles: _Piles) -> None:
    """Add a day's events to the piles."""
    checkpoints = sorted(run.upstream.days)
    earlier = [one for one in checkpoints if one < day]
    lagged = earlier[-1] if earlier else checkpoints[0]
    fresh = day if day in run.upstream.days else checkpoints[0]
    passes: dict[int, list[_Take]] = {lagged: [_add_cross]}
    passes.setdefault(fresh, []).append(_add_towers)
    for checkpoint, takes in passes.items():
        run.load(checkpoint)
        _forward_day(run, day, takes, piles)


@torch.no_grad()
def _forward_day(run: _Run, day: int, takes: list[_Take], piles: _Piles) -> None:
    run.sharded.model.eval()
    batches = progress(
        run.reader.day(day), total=run.reader.num_steps(day), words=f"dump {day}", ranks=run.ranks
    )
    for batch in agreed(batches, ranks=run.ranks):
        if batch is None:
            break
        output = run.sharded.model(batch.to(run.ranks.device))
        for take in takes:
            take(run, batch, output, piles)


def _add_cross(run: _Run, batch: Batch, output: LfmOutput, piles: _Piles) -> None:
    """Fold CR(u, i) of each row's own domain branch into its user and item."""
    valid, times, row_ids = batch.valid, batch.time, batch.row_id
    tasks = list(run.dataset.schema.tasks)
    for side, keys in zip(SIDES, (batch.user, batch.item), strict=True):
        piles[side].count(keys[valid].numpy(), times=times[valid].numpy())
    for spec in run.specs:
        if spec.kind != "decayed":
            continue
        rows = valid & (batch.domain == run.dataset.schema.domains.index(spec.domain))
        if spec.event:
            rows = rows & (batch.labels[:, tasks.index(spec.event)] > 0)
        keys = batch.user if spec.side == "user" else batch.item
        piles[spec.side].add(
            spec.name,
            keys=keys[rows].numpy(),
            vectors=output.layers[spec.layer].cpu()[rows].float().cpu().numpy(),
            times=times[rows].numpy(),
            row_ids=row_ids[rows].numpy(),
        )


def _add_towers(run: _Run, batch: Batch, output: LfmOutput, piles: _Piles) -> None:  # noqa: ARG001
    """Keep the newest UR of each user and IR of each item."""
    valid = batch.valid
    for side, name, keys, vectors in (
        ("user", "ur", batch.user, output.ur),
        ("item", "ir", batch.item, output.ir),
    ):
        piles[side].add(  # pyright: ignore[reportArgumentType]
            name,
            keys=keys[valid].numpy(),
            vectors=vectors.cpu()[valid].float().numpy(),
            times=batch.time[valid].numpy(),
            row_ids=batch.row_id[valid].numpy(),
        )


def _write_day(run: _Run, day: int, piles: _Piles, previous: Snapshot | None) -> Snapshot:
    header = Header(
        upstream=run.upstream.version,
        as_of=day,
        checkpoint_day=day,
        trained_through=day,
        representations=run.specs,
    )
    partial: dict[RepSide, SideStates] = {}
    with run.ranks.together():
        partial = {side: pile.finish() for side, pile in piles.items()}
    states: dict[RepSide, SideStates] = {
        side: route_side(run.ranks, partial[side], header.specs(side)) for side in SIDES
    }
    snapshot = write_snapshot(
        run.ranks,
        run.config.output,
        header=header,
        states=states,
        previous=previous,
        overwrite=run.config.overwrite,
    )
    counts = " and ".join(f"{snapshot.manifest.rows(side)} {side}s" for side in SIDES)
    log.info("as of %d: %s in %s", day, counts, snapshot.folder)
    return snapshot
