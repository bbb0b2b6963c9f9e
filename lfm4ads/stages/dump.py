"""Dump UR, IR and the folded cross representations, as of each day.

torchrun --standalone --nproc-per-node 2 -m launch.dump configs/dump/adsworld.yaml

A day's events are folded into CR with the checkpoint of the day before, which has not seen their
labels; UR and IR come from the checkpoint of the day itself. The days of the base, for which there
is no earlier checkpoint, use the base's own.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
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
from lfm4ads.train.carry import CarryConfig, check_days, write_carried
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
    """Last day that gets one; 0: the day of the newest checkpoint. Later days are folded with that
    checkpoint: an upstream that is not trained every day."""
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
    window_days: int = 0
    """Calendar days, the last being that of the first snapshot, whose events are in it; 0: all."""
    carry: CarryConfig | None = None
    """Begin with another upstream's states, mapped to this one, instead of with events."""
    overwrite: bool = False
    reader: ReaderConfig = field(default_factory=lambda: ReaderConfig(shuffle=False))
    place: PlaceConfig = field(default_factory=PlaceConfig)

    def __post_init__(self) -> None:
        if not self.events:
            raise ValueError("events must name at least one kind; use [''] for every exposure")
        if not self.half_life_days and not self.half_life_events:
            raise ValueError("half_life_days or half_life_events must give at least one half-life")
        for name in ("half_life_days", "half_life_events"):
            if min(getattr(self, name), default=1.0) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.window_days < 0 or (self.window_days and self.carry):
            raise ValueError(
                f"window_days must be at least 0, and 0 beside carry, got {self.window_days}"
            )
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
    if previous is None and config.carry is not None:
        previous = write_carried(
            folding, config.carry, config.output, place=config.place, overwrite=config.overwrite
        )
        _say(previous)
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
    if config.carry is not None:
        check_days(config.carry, dataset, first_as_of=config.first_as_of)
        first = config.carry.as_of
    last = config.last_as_of or max(upstream.days)
    if first < upstream.seen_through:
        what = "carry.as_of" if config.carry else "first_as_of"
        raise UserError(
            f"{what} is {first}, but the first checkpoint has seen labels through"
            f" {upstream.seen_through}: a leak; use that day or a later one",
            everywhere=True,
        )
    return dataset.between(first, last)


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
            _check_goes_on(config, folding, previous)
    return previous


def _check_goes_on(config: Config, folding: Folding, previous: Snapshot) -> None:
    """Refuse to complete what was begun in another way."""
    header = previous.manifest.header
    if config.carry is None and header.window_days != config.window_days:
        raise UserError(
            f"{previous.folder} was built with window_days={header.window_days}, not"
            f" {config.window_days}; pass that, or overwrite=true"
        )
    begun = header.carried.upstream if header.carried else ""
    if bool(begun) != (config.carry is not None):
        raise UserError(
            f"{previous.folder} began with {f'states of upstream {begun}' if begun else 'events'};"
            f" {'give' if begun else 'leave out'} carry, or pass overwrite=true"
        )
    if config.samples:
        after = header.carried.as_of if header.carried else header.first_day - 1
        days = [day for day in sorted(folding.dataset.days) if after < day <= header.as_of]
        sample_files(config.output, version=header.upstream, days=days)


def _first_day(config: Config, dataset: Dataset, first_as_of: int) -> int:
    """Return the first day whose events are folded."""
    if not config.window_days:
        return min(dataset.days)
    last = datetime.strptime(str(first_as_of), "%Y%m%d")
    start = int((last - timedelta(days=config.window_days - 1)).strftime("%Y%m%d"))
    return min(day for day in dataset.days if day >= start)


def _write_days(
    config: Config, folding: Folding, wanted: list[int], previous: Snapshot | None
) -> None:
    first = _first_day(config, folding.dataset, wanted[0])
    if previous is not None:
        first = previous.manifest.header.as_of + 1
    days = [day for day in sorted(folding.dataset.days) if first <= day <= wanted[-1]]
    folding.start(previous)
    for day in days:
        folding.add_day(day)
        if day in wanted:
            previous = _write_day(
                config, folding, _header(config, folding, day, previous, first), previous
            )
            folding.start(previous)


def _header(
    config: Config, folding: Folding, day: int, previous: Snapshot | None, first: int
) -> Header:
    before = previous.manifest.header if previous else None
    return Header(
        upstream=folding.upstream.lineage.version,
        as_of=day,
        checkpoint_day=folding.upstream.fresh(day),
        trained_through=folding.upstream.fresh(day),
        representations=folding.slots.specs(),
        first_day=before.first_day if before else first,
        window_days=before.window_days if before else config.window_days,
        carried=before.carried if before else None,
    )


def _write_day(
    config: Config, folding: Folding, header: Header, previous: Snapshot | None
) -> Snapshot:
    snapshot = write_snapshot(
        folding.ranks,
        config.output,
        header=header,
        states=folding.states(),
        previous=previous,
        overwrite=config.overwrite,
    )
    _say(snapshot)
    return snapshot


def _say(snapshot: Snapshot) -> None:
    counts = " and ".join(f"{snapshot.manifest.rows(side)} {side}s" for side in SIDES)
    header = snapshot.manifest.header
    log.info("as of %d: %s in %s", header.as_of, counts, snapshot.folder)
    if header.carried and header.carried.as_of == header.as_of:
        r2, name = min((share, name) for name, share in header.carried.r2.items())
        log.info(
            "carried from upstream %s; the worst map is %s's, R^2 %.3f",
            header.carried.upstream,
            name,
            r2,
        )
