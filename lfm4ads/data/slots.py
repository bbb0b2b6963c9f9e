"""What is summed together: slots of rows by group, event and horizon, each over several layers.

All layers of a slot decay alike, so a slot is folded once, with its layers side by side, and cut
into one representation a layer at the end.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from lfm4ads.core.errors import UserError
from lfm4ads.data.batch import Batch
from lfm4ads.data.decay import Int64s, Read, State
from lfm4ads.data.index import DAY_MS
from lfm4ads.data.manifest import Clock, RepSide, RepSpec
from lfm4ads.data.schema import Schema
from lfm4ads.data.side import SideStates

By = Literal["domain", "scenario", "all"]
SIDES: tuple[RepSide, ...] = get_args(RepSide)


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """How a sum forgets."""

    clock: Clock
    half_life: float
    """In milliseconds or events."""
    name: str
    """Of a representation, where there are several horizons."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows of one domain, one scenario, or all."""

    name: str
    code: int
    """Index of the domain or scenario in the schema; 0 for all."""
    domain: str = ""
    scenario: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class SlotRows:
    """What decides where N rows go, without their vectors."""

    keys: dict[RepSide, Int64s]
    time: Int64s
    row_id: Int64s
    """(N,) each."""
    group: Int64s
    """(N,) the group of each row, -1 for none: groups share no row."""
    marks: npt.NDArray[np.bool_]
    """(N, E) whether a row is in a group and had each event."""

    def __len__(self) -> int:
        return len(self.time)


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Groups x events x horizons, and the layers summed in each."""

    by: By
    groups: tuple[Group, ...]
    events: tuple[str, ...]
    """"" every exposure, a task's name the rows where its label is 1."""
    horizons: tuple[Horizon, ...]
    layers: dict[str, int]
    """Width of each layer by name."""
    reads: Read
    towers: tuple[int, int]
    """Widths of UR and IR."""

    @property
    def counts_events(self) -> bool:
        """Whether any horizon needs the ordinals of events."""
        return any(one.clock == "events" for one in self.horizons)

    @property
    def width(self) -> int:
        """Width of all layers side by side."""
        return sum(self.layers.values())

    def specs(self) -> tuple[RepSpec, ...]:
        """Return every representation that a snapshot holds."""
        cross = [
            self._cross(side, group, layer, event, horizon)
            for side in SIDES
            for group in self.groups
            for layer in self.layers
            for event in self.events
            for horizon in self.horizons
        ]
        specs = (*self._latest("user"), *self._latest("item"), *cross)
        names = [(spec.side, spec.name) for spec in specs]
        double = {name for name in names if names.count(name) > 1}
        if double:
            raise UserError(
                f"two representations would be named {min(double)[1]}; choose domains, scenarios"
                " or half-lives whose names differ",
                everywhere=True,
            )
        return specs

    def folded(self, side: RepSide) -> list[RepSpec]:
        """Return what a side is folded into: a latest vector, and a sum a slot over all layers."""
        wide = [
            RepSpec(
                name=self.fold_name(group, event, horizon),
                side=side,
                kind="decayed",
                dim=self.width,
                read="sum",
                clock=horizon.clock,
                half_life=horizon.half_life,
            )
            for group in self.groups
            for event in self.events
            for horizon in self.horizons
        ]
        return [*self._latest(side), *wide]

    def fold_name(self, group: Group, event: str, horizon: Horizon) -> str:
        """Return the name of a slot's sum over all layers."""
        return f"slot_{self.groups.index(group)}_{event}_{horizon.name}"

    def cut(self, states: SideStates, side: RepSide) -> SideStates:
        """Return folded states with one representation a layer; views, nothing is copied."""
        starts = np.cumsum([0, *self.layers.values()])
        cut: dict[str, State] = {}
        for group in self.groups:
            for position, layer in enumerate(self.layers):
                columns = slice(starts[position], starts[position + 1])
                for event in self.events:
                    for horizon in self.horizons:
                        wide = states.decayed[self.fold_name(group, event, horizon)]
                        name = self._cross(side, group, layer, event, horizon).name
                        cut[name] = State(
                            keys=wide.keys,
                            sum=wide.sum[:, columns],
                            weight=wide.weight,
                            time=wide.time,
                            events=wide.events,
                        )
        return SideStates(counts=states.counts, decayed=cut, latest=states.latest)

    def counted(self) -> list[str]:
        """Return a representation that counts events for each group and event, in that order."""
        horizon = next(one for one in self.horizons if one.clock == "events")
        layer = next(iter(self.layers))
        return [
            self._cross("user", group, layer, event, horizon).name
            for group in self.groups
            for event in self.events
        ]

    def rows(self, batch: Batch, tasks: Sequence[str]) -> SlotRows:
        """Return where the valid rows of a batch go."""
        rows = batch.num_valid
        group = np.full(rows, -1, dtype=np.int64)
        codes = (batch.scenario if self.by == "scenario" else batch.domain)[:rows].numpy()
        for position, one in enumerate(self.groups):
            group[codes == one.code if self.by != "all" else slice(None)] = position
        marks = np.repeat((group >= 0)[:, None], len(self.events), axis=1)
        for position, event in enumerate(self.events):
            if event:
                marks[:, position] &= batch.labels[:rows, tasks.index(event)].numpy() > 0
        return SlotRows(
            keys={"user": batch.user[:rows].numpy(), "item": batch.item[:rows].numpy()},
            time=batch.time[:rows].numpy(),
            row_id=batch.row_id[:rows].numpy(),
            group=group,
            marks=marks,
        )

    def _latest(self, side: RepSide) -> list[RepSpec]:
        name, dim = ("ur", self.towers[0]) if side == "user" else ("ir", self.towers[1])
        return [RepSpec(name=name, side=side, kind="latest", dim=dim, read="sum", layer="towers")]

    def _cross(
        self, side: RepSide, group: Group, layer: str, event: str, horizon: Horizon
    ) -> RepSpec:
        several = len(self.horizons) > 1
        parts = ("cr", group.name, layer, event, horizon.name if several else "")
        return RepSpec(
            name="_".join(part for part in parts if part),
            side=side,
            kind="decayed",
            dim=self.layers[layer],
            read=self.reads,
            clock=horizon.clock,
            half_life=horizon.half_life,
            layer=layer,
            domain=group.domain,
            scenario=group.scenario,
            event=event,
        )


def horizons_of(*, days: Sequence[float], events: Sequence[float]) -> tuple[Horizon, ...]:
    """Return horizons for half-lives in days and in events."""
    by_time = [
        Horizon(clock="time", half_life=one * DAY_MS, name=_short(one) + "d") for one in days
    ]
    by_event = [Horizon(clock="events", half_life=one, name=_short(one) + "e") for one in events]
    return (*by_time, *by_event)


def _short(number: float) -> str:
    return (f"{number:.0f}" if number >= 10 else f"{number:g}").replace(".", "p")


def groups_of(
    schema: Schema, *, by: By, domains: Sequence[str], scenarios: Sequence[str]
) -> tuple[Group, ...]:
    """Return what separates slots; no names given choose all of them."""
    for word, names, known, used in (
        ("domain", domains, schema.domains, by == "domain"),
        ("scenario", scenarios, schema.scenarios, by == "scenario"),
    ):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UserError(
                f"{word}s names {unknown[0]}; the schema has {', '.join(known)}", everywhere=True
            )
        if names and not used:
            raise UserError(f"{word}s has no effect with by={by}; pass by={word}", everywhere=True)
    match by:
        case "all":
            return (Group(name="all", code=0),)
        case "domain":
            return tuple(
                Group(name=_name(one), code=schema.domains.index(one), domain=one)
                for one in domains or schema.domains
            )
        case "scenario":
            return tuple(
                Group(name=_name(one), code=schema.scenarios.index(one), scenario=one)
                for one in scenarios or schema.scenarios
            )


def _name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def chosen_layers(dims: Mapping[str, int], layers: Sequence[str]) -> dict[str, int]:
    """Return the widths of the layers that are summed; none named is the penultimate."""
    for layer in layers:
        if layer not in dims:
            raise UserError(
                f"layer {layer} is not in the model; it has {', '.join(dims)}", everywhere=True
            )
    return {layer: dims[layer] for layer in layers or [list(dims)[-1]]}
