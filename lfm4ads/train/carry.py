"""Old representations moved to a new upstream by maps that are fitted on days both have seen."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lfm4ads.core.errors import UserError
from lfm4ads.data.affine import Affine, NormalEquations, carry_states
from lfm4ads.data.batch import Batch
from lfm4ads.data.decay import Float32s
from lfm4ads.data.index import Dataset
from lfm4ads.data.manifest import Carried, Header, RepSide, RepSpec
from lfm4ads.data.reps import open_snapshot, write_changed
from lfm4ads.data.side import SideStates
from lfm4ads.data.snapshot import Snapshot
from lfm4ads.model.lfm import Lfm, LfmOutput
from lfm4ads.shard.place import PlaceConfig
from lfm4ads.train.fold import Folding, Upstream, place_upstream
from lfm4ads.train.lineage import Lineage, open_lineage


@dataclass(frozen=True, kw_only=True)
class CarryConfig:
    """Where the old states are, and the days on which old and new upstream are compared."""

    reps: Path
    pretrain: Path
    """Run folder of the upstream that made them."""
    as_of: int
    """Day whose snapshot is carried over; the first of the new version."""
    days: tuple[int, ...] = ()
    """Days on whose rows the maps are fitted, none after ``as_of``; empty: that day alone."""
    ridge: float = 1e-9
    """Share of the old dimensions' mean variance that is added to each."""

    def __post_init__(self) -> None:
        late = [day for day in self.days if day > self.as_of]
        if late:
            raise ValueError(
                f"carry.days has {late[0]}, which is after carry.as_of {self.as_of}: a leak"
            )
        if self.ridge <= 0:
            raise ValueError(f"carry.ridge must be positive, got {self.ridge}")

    @property
    def fit_days(self) -> tuple[int, ...]:
        """The days of the fit, ascending."""
        return tuple(sorted(set(self.days))) or (self.as_of,)


def write_carried(
    folding: Folding, config: CarryConfig, root: Path, *, place: PlaceConfig, overwrite: bool
) -> Snapshot:
    """Write the old snapshot, mapped, as the first of the new version. Collective.

    Both models are on the ranks at once, because a map needs both vectors of a row.
    """
    old = _open_old(folding, config)
    specs = folding.slots.specs()
    before = {(spec.side, spec.name): spec for spec in old.manifest.header.representations}
    for spec in specs:
        _check_same(spec, before.get((spec.side, spec.name)), folder=old.folder)
    for day in config.fit_days:
        folding.dataset.groups(day)
    lineage = _old_lineage(folding, config)
    model = Lfm(folding.dataset.schema, lineage.config)
    upstream = place_upstream(lineage, model, place=place, ranks=folding.ranks)
    maps = _fit(folding, upstream, config)
    header = Header(
        upstream=folding.upstream.lineage.version,
        as_of=config.as_of,
        checkpoint_day=folding.upstream.fresh(config.as_of),
        trained_through=folding.upstream.fresh(config.as_of),
        representations=specs,
        first_day=old.manifest.header.first_day,
        window_days=old.manifest.header.window_days,
        carried=Carried(
            upstream=lineage.version,
            as_of=config.as_of,
            days=config.fit_days,
            rows=maps["user.ur"].rows,
            r2={name: one.r2 for name, one in maps.items()},
        ),
    )

    def change(side: RepSide, states: SideStates) -> SideStates:
        mine = {name.split(".", 1)[1]: one for name, one in maps.items() if name.startswith(side)}
        return carry_states(states, mine)

    return write_changed(
        folding.ranks, root, header=header, old=old, change=change, overwrite=overwrite
    )


def _old_lineage(folding: Folding, config: CarryConfig) -> Lineage:
    lineage: list[Lineage] = []
    with folding.ranks.together():
        lineage.append(open_lineage(config.pretrain))
    return lineage[0]


def _open_old(folding: Folding, config: CarryConfig) -> Snapshot:
    version, new = _old_lineage(folding, config).version, folding.upstream.lineage.version
    if version == new:
        raise UserError(
            f"{config.pretrain} is of upstream {version}, as is the new one: nothing to carry;"
            " leave carry out, or point it at the old run",
            everywhere=True,
        )
    found: list[Snapshot] = []
    with folding.ranks.together():
        found.append(open_snapshot(config.reps, version=version, as_of=config.as_of))
    return found[0]


def _check_same(spec: RepSpec, old: RepSpec | None, *, folder: Path) -> None:
    """Refuse to carry what was summed otherwise; its width and how it is read may differ."""
    if old is None or replace(old, dim=spec.dim, read=spec.read) != spec:
        what = "has no" if old is None else "sums otherwise, by clock, half-life or slot,"
        raise UserError(
            f"{folder} {what} {spec.side} {spec.name}; ask dump for what the old version holds",
            everywhere=True,
        )


def _fit(folding: Folding, old: Upstream, config: CarryConfig) -> dict[str, Affine]:
    """Return the map of each representation, as ``side.name``.

    A layer has a map a group, fitted on all of the group's rows whatever their events: it is the
    same function of the row, and positives alone would be few.
    """
    slots, dims = folding.slots, old.model.mix.layer_dims
    cross = {
        (group.name, layer): NormalEquations(old_dim=dims[layer], new_dim=width)
        for group in slots.groups
        for layer, width in slots.layers.items()
    }
    towers = [
        NormalEquations(old_dim=old_dim, new_dim=new_dim)
        for old_dim, new_dim in zip(old.model.rep_dims, slots.towers, strict=True)
    ]
    tasks = list(folding.dataset.schema.tasks)
    for day in config.fit_days:
        for batch, before, after in _both(folding, old, day=day, lagged=True):
            group = slots.rows(batch, tasks).group
            for position, one in enumerate(slots.groups):
                for layer in slots.layers:
                    pair = [_valid(each.layers[layer], batch) for each in (before, after)]
                    rows = group == position
                    cross[one.name, layer].add(pair[0][rows], pair[1][rows])
        for batch, before, after in _both(folding, old, day=day, lagged=False):
            towers[0].add(_valid(before.ur, batch), _valid(after.ur, batch))
            towers[1].add(_valid(before.ir, batch), _valid(after.ir, batch))
    return _solve(folding, config, cross=cross, towers=towers)


def _both(
    folding: Folding, old: Upstream, *, day: int, lagged: bool
) -> Iterator[tuple[Batch, LfmOutput, LfmOutput]]:
    for one in (old, folding.upstream):
        one.load(one.lagged(day) if lagged else one.fresh(day))
    for batch in folding.batches(day, words=f"compare {day}"):
        there = batch.to(folding.ranks.device)
        with torch.no_grad():
            outputs = old.sharded.model(there), folding.upstream.sharded.model(there)
        yield batch, *outputs


def _valid(vectors: torch.Tensor, batch: Batch) -> Float32s:
    return vectors.float().cpu()[batch.valid].numpy()


def _solve(
    folding: Folding,
    config: CarryConfig,
    *,
    cross: dict[tuple[str, str], NormalEquations],
    towers: list[NormalEquations],
) -> dict[str, Affine]:
    ranks, ridge = folding.ranks, config.ridge
    by_layer = {
        (group, layer): one.fit(ranks, ridge=ridge, name=f"cr_{group}_{layer}")
        for (group, layer), one in cross.items()
    }
    maps = {
        "user.ur": towers[0].fit(ranks, ridge=ridge, name="ur"),
        "item.ir": towers[1].fit(ranks, ridge=ridge, name="ir"),
    }
    groups = {(group.domain, group.scenario): group.name for group in folding.slots.groups}
    for spec in folding.slots.specs():
        if spec.kind == "decayed":
            group = groups[spec.domain, spec.scenario]
            maps[f"{spec.side}.{spec.name}"] = by_layer[group, spec.layer]
    return maps


def check_days(config: CarryConfig, dataset: Dataset, *, first_as_of: int) -> None:
    """Refuse days that do not fit the rest of the dump."""
    dataset.groups(config.as_of)
    if first_as_of not in (0, config.as_of):
        raise UserError(
            f"first_as_of is {first_as_of}, but the first snapshot is the carried one of"
            f" {config.as_of}; leave first_as_of out",
            everywhere=True,
        )
