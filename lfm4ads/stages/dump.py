"""Dump UR, IR and the folded cross representations, as of each day.

torchrun --standalone --nproc-per-node 2 -m launch.dump configs/dump/adsworld.yaml

A day's events are folded into CR with the checkpoint of the day before, which has not seen their
labels; UR and IR come from the checkpoint of the day itself. The days of the base, for which there
is no earlier checkpoint, use the base's own.
"""

from dataclasses import dataclass, field
from pathlib import Path

from lfm4ads.core.errors import UserError
from lfm4ads.core.log import log
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.decay import Read
from lfm4ads.data.index import Dataset, open_dataset
from lfm4ads.data.manifest import Header, available_days
from lfm4ads.data.reader import Reader, ReaderConfig
from lfm4ads.data.reps import open_snapshot, write_snapshot
from lfm4ads.data.samples import sample_files
from lfm4ads.data.slots import SIDES, By, Slots, chosen_layers, groups_of, horizons_of
from lfm4ads.data.snapshot import Snapshot
from lfm4ads.model.lfm import Lfm
from lfm4ads.shard.place import PlaceConfig
from lfm4ads.train.fold import Folding, check_events, place_upstream
from lfm4ads.train.lineage import Lineage, open_lineage


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
    layers: tuple[str, ...] = ()
    """Layers of the mix tower that are folded into CR; none: the penultimate, the last MLP layer.

    With by=scenario and by=all too, a row gives the layer of its own domain's branch.
    """
    by: By = "domain"
    """What separates slots."""
    domains: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    """With by=domain and by=scenario: those that get slots; none named are all."""
    events: tuple[str, ...] = ("",)
    """What is folded: "" every exposure, a task's name the rows where its label is 1."""
    half_life_days: tuple[float, ...] = (7.0,)
    """Horizons of wall-clock decay."""
    half_life_events: tuple[float, ...] = ()
    """Horizons of decay per event; 68.97 is the 0.99 per event of the public code."""
    reads: Read = "layernorm"
    """How a sum becomes what a model sees."""
    samples: bool = False
    """Also write every row's layers, for a SQL engine."""
    overwrite: bool = False
    reader: ReaderConfig = field(default_factory=lambda: ReaderConfig(shuffle=False))
    place: PlaceConfig = field(default_factory=PlaceConfig)

    def __post_init__(self) -> None:
        if not self.events:
            raise ValueError("events must name at least one kind; use [''] for every exposure")
        if not self.half_life_days and not self.half_life_events:
            raise ValueError("half_life_days or half_life_events must give at least one half-life")
        for name in ("half_life_days", "half_life_events"):
            if any(one <= 0 for one in getattr(self, name)):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("layers", "events", "domains", "scenarios"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} names one twice: {getattr(self, name)}")


def run(config: Config, ranks: Ranks) -> Path:
    """Write a snapshot per day; return the version's folder. A rerun completes a killed run."""
    with ranks.together():
        upstream = open_lineage(config.pretrain)
    dataset = open_dataset(config.data, ranks)
    model = Lfm(dataset.schema, upstream.config)
    slots = _slots(config, dataset, model)
    wanted = _wanted_days(config, dataset, upstream)
    folding = Folding(
        ranks=ranks,
        dataset=dataset,
        # An event of a later day must not decide what a day's snapshot holds.
        reader=Reader(dataset, config=config.reader, ranks=ranks, seed=0, final_labels=False),
        upstream=place_upstream(upstream, model, place=config.place, ranks=ranks),
        slots=slots,
        samples=config.output if config.samples else None,
    )
    previous = _resume(config, folding, wanted)
    _write_days(config, folding, wanted, previous)
    return config.output / f"upstream={upstream.version}"


def _slots(config: Config, dataset: Dataset, model: Lfm) -> Slots:
    check_events(config.events, dataset)
    schema = dataset.schema
    if not schema.row_id and (config.half_life_events or config.samples):
        raise UserError(
            f"{dataset.path}/schema.yaml names no row_id, which orders events of one time; add the"
            " column, or leave half_life_events and samples out",
            everywhere=True,
        )
    slots = Slots(
        by=config.by,
        groups=groups_of(schema, by=config.by, domains=config.domains, scenarios=config.scenarios),
        events=config.events,
        horizons=horizons_of(days=config.half_life_days, events=config.half_life_events),
        layers=chosen_layers(model.mix.layer_dims, config.layers),
        reads=config.reads,
        towers=(model.rep_dims[0], model.rep_dims[1]),
    )
    slots.specs()
    return slots


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


def _resume(config: Config, folding: Folding, wanted: list[int]) -> Snapshot | None:
    """Return the newest snapshot of an unfinished dump that this one can go on from."""
    previous: Snapshot | None = None
    version = folding.upstream.lineage.version
    with folding.ranks.together():
        done = [] if config.overwrite else available_days(config.output, version)
        done = [day for day in done if day in wanted]
        if wanted[-1] in done:
            raise UserError(
                f"{config.output} already holds snapshots of upstream {version} through"
                f" {wanted[-1]}; choose another output or pass overwrite=true"
            )
        if done:
            previous = open_snapshot(config.output, version=version, as_of=done[-1])
            if config.samples:
                folded = [day for day in sorted(folding.dataset.days) if day <= done[-1]]
                sample_files(config.output, version=version, days=folded)
    return previous


def _write_days(
    config: Config, folding: Folding, wanted: list[int], previous: Snapshot | None
) -> None:
    after = previous.manifest.header.as_of if previous else 0
    days = [day for day in sorted(folding.dataset.days) if after < day <= wanted[-1]]
    folding.start(previous)
    for day in days:
        folding.add_day(day)
        if day in wanted:
            previous = _write_day(config, folding, day, previous)
            folding.start(previous)


def _write_day(config: Config, folding: Folding, day: int, previous: Snapshot | None) -> Snapshot:
    header = Header(
        upstream=folding.upstream.lineage.version,
        as_of=day,
        checkpoint_day=day,
        trained_through=day,
        representations=folding.slots.specs(),
    )
    snapshot = write_snapshot(
        folding.ranks,
        config.output,
        header=header,
        states=folding.states(),
        previous=previous,
        overwrite=config.overwrite,
    )
    counts = " and ".join(f"{snapshot.manifest.rows(side)} {side}s" for side in SIDES)
    log.info("as of %d: %s in %s", day, counts, snapshot.folder)
    return snapshot
