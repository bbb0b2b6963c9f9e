"""The upstream foundation model: user tower, item tower, mix tower (arXiv 2508.14948).

Dimension key: B rows, T tasks, U widths of a side's representations over all table sets, P of the
pair fields, S streams, M experts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from lfm4ads.core.ranks import Array
from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema
from lfm4ads.nn.experts import plan_access
from lfm4ads.nn.fields import FieldConfig, FieldEncoder, check_codes
from lfm4ads.nn.heads import ScenarioHeads
from lfm4ads.nn.mix import MixConfig, MixTower, SetLayout
from lfm4ads.nn.pairs import PairConfig, PairFields, check_pairs, pooled_apart
from lfm4ads.nn.sngp import SngpHeads
from lfm4ads.nn.tables import Looked, Tables, TableSet, check_features
from lfm4ads.nn.tower import Tower, TowerConfig


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """What stands on the last layer."""

    kind: Literal["linear", "sngp"] = "linear"
    """sngp: a random-feature Gaussian process with a variance, for exploration."""
    features: int = 1024
    """Random features of sngp."""
    decay: float = 1.0
    """Of sngp's precision: 1 counts a day's rows in a pass after it is trained, exactly; below 1
    it is a running one, observed at each training step."""
    spectral: float = 0.0
    """Largest singular value of the layers below the heads, so that near rows stay near; 0 leaves
    them free."""
    joint: bool = False
    """A second logit a task, which the loss rank=jrc needs."""


@dataclass(frozen=True, kw_only=True)
class LfmConfig:
    """Shape of the foundation model."""

    without: tuple[str, ...] = ()
    """Features that no tower reads; similarities may."""
    context: Literal["logit", "user"] = "logit"
    """logit: context features only shift the logit, so that UR holds for any request; user: they
    enter the user tower, and UR is that of the user's last request."""
    sets: dict[str, TableSet] = field(default_factory=dict)
    """Complete table sets; empty: one, named main, with the schema's widths."""
    fields: FieldConfig = field(default_factory=FieldConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    tower: TowerConfig = field(default_factory=TowerConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    reads: dict[str, list[str]] = field(default_factory=dict)
    """Task -> table sets it reads; a task not named reads all."""
    trains: dict[str, list[str]] = field(default_factory=dict)
    """Task -> table sets its loss trains, among those it reads; the rest is behind a
    stop-gradient."""
    heads: HeadConfig = field(default_factory=HeadConfig)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {self.dropout}")
        if self.heads.kind == "sngp" and self.mix.merge.per_task:
            raise ValueError("heads.kind=sngp reads one vector a row; set merge.per_task=false")

    @property
    def table_sets(self) -> dict[str, TableSet]:
        """The sets by name."""
        return self.sets or {"main": TableSet()}


@dataclass
class LfmOutput:
    """What one pass over a batch gives."""

    logits: Tensor
    """(B, T) of the row's scenario."""
    ur: Tensor
    """(B, U) user representation, a function of user features alone."""
    ir: Tensor
    """(B, U) item representation, a function of item features alone."""
    layers: dict[str, Tensor]
    """Cross representations (B, .) by layer name."""
    weights: Tensor
    """How experts were weighted (B, S, M)."""
    base_logits: Tensor | None = None
    """(B, T) of the joint loss: its two logits are (base, base + logit)."""


class SideEncoder(nn.Module):
    """The fields and the tower of one side, in one table set."""

    def __init__(self, fields: FieldEncoder, *, side: str, config: LfmConfig) -> None:
        super().__init__()
        self.fields = fields
        self.tower = Tower(
            fields.names, fields.dims, side=side, config=config.tower, dropout=config.dropout
        )

    @property
    def tokens(self) -> tuple[tuple[str, int], ...]:
        """(name, width) of every piece that interactions treat as a field."""
        return tuple(zip(self.tower.names, self.tower.dims, strict=True))

    def forward(self, looked: Looked, batch: Batch) -> Tensor:
        """Return the side's representation (B, U)."""
        return self.tower(self.fields(looked, batch))


class Lfm(nn.Module):
    """Towers that never see the other side, so that UR and IR can be cached."""

    def __init__(self, schema: Schema, config: LfmConfig) -> None:
        super().__init__()
        check_features(schema, config.without, setting="model.without")
        check_codes(schema, config.fields)
        check_pairs(schema, config.pairs)
        self.tables = build_tables(schema, config)
        encoders = build_encoders(schema, config, tables=self.tables)
        self.users, self.items = nn.ModuleDict(encoders.users), nn.ModuleDict(encoders.items)
        self.pairs = nn.ModuleDict(encoders.pairs)
        self.mix = build_mix(
            schema, config, layouts=encoders.layouts, domains=schema.domains, tasks=schema.tasks
        )
        sides = (encoders.users, encoders.items)
        self.rep_dims = tuple(sum(one.tower.width for one in side.values()) for side in sides)
        """Widths of UR and IR."""
        self._last = list(self.mix.layer_dims)[-1]
        scenarios, tasks = len(schema.scenarios), len(schema.tasks)
        self.heads = build_heads(self.mix.width, config, scenarios=scenarios, tasks=tasks)
        self.base_heads = (
            ScenarioHeads(self.mix.width, scenarios=scenarios, tasks=tasks)
            if config.heads.joint
            else None
        )
        context = _kept(schema.select(side="context"), config) if config.context == "logit" else []
        self.context_fields = (
            FieldEncoder(
                schema,
                context,
                tables=self.tables,
                table_set=next(iter(config.table_sets)),
                config=config.fields,
            )
            if context
            else None
        )
        self.context_head = (
            nn.Linear(self.context_fields.width, tasks) if self.context_fields else None
        )

    def forward(self, batch: Batch) -> LfmOutput:
        """Score a batch and expose its representations."""
        looked = self.tables(batch.sparse)
        ur_BU = torch.cat([one(looked, batch) for one in self.users.values()], dim=1)
        ir_BU = torch.cat([one(looked, batch) for one in self.items.values()], dim=1)
        pair_BP = None
        if self.pairs:
            pair_BP = torch.cat([one(looked, batch) for one in self.pairs.values()], dim=1)
        mixed = self.mix(ur_BU, ir_BU, batch.domain, pair_BP)
        logits_BT = self.heads(mixed.top, batch.scenario)
        if self.context_fields is not None and self.context_head is not None:
            logits_BT = logits_BT + self.context_head(self.context_fields(looked, batch))
        base_BT = self.base_heads(mixed.top, batch.scenario) if self.base_heads else None
        return LfmOutput(logits_BT, ur_BU, ir_BU, mixed.layers, mixed.weights, base_BT)

    @property
    def observes(self) -> bool:
        """Whether the heads have a variance, which must be told of the rows it knows."""
        return isinstance(self.heads, SngpHeads)

    def variance(self, output: LfmOutput) -> Tensor | None:
        """Return the variance of each logit (B, T), None for heads that have none."""
        if isinstance(self.heads, SngpHeads):
            return self.heads.variance(output.layers[self._last])
        return None

    def observe(self, output: LfmOutput, batch: Batch) -> None:
        """Add a batch to the rows the variance knows, once it is settled."""
        if isinstance(self.heads, SngpHeads) and not self.heads.is_running:
            self.heads.observe(output.layers[self._last], batch.scenario, batch.masks)

    def observe_step(self, output: LfmOutput, batch: Batch) -> None:
        """Add a training batch, where the precision is a running one."""
        if isinstance(self.heads, SngpHeads) and self.heads.is_running:
            self.heads.observe(output.layers[self._last], batch.scenario, batch.masks)

    def settle(self, sum_over_ranks: Callable[[Array], Array]) -> None:
        """Make what was observed on all ranks count."""
        if isinstance(self.heads, SngpHeads):
            self.heads.settle(sum_over_ranks)


def build_tables(schema: Schema, config: LfmConfig) -> Tables:
    """Return every table set, on the meta device."""
    features = set(_kept(list(schema.features), config))
    features |= {
        name for one in config.pairs.interests.values() for name in (*one.behaviours, *one.targets)
    }
    return Tables(
        schema,
        [name for name in schema.features if name in features],
        sets=config.table_sets,
        unpooled=pooled_apart(schema, config.pairs),
    )


@dataclass(frozen=True)
class Encoders:
    """What turns features into the mix tower's input, by table set."""

    users: dict[str, SideEncoder]
    items: dict[str, SideEncoder]
    pairs: dict[str, PairFields]
    """Empty when no field sees both sides."""

    @property
    def layouts(self) -> dict[str, SetLayout]:
        """The mix tower's fields."""
        layouts: dict[str, SetLayout] = {}
        for name, user in self.users.items():
            pair = self.pairs.get(name)
            named = tuple(zip(pair.names, pair.dims, strict=True)) if pair else ()
            layouts[name] = SetLayout(user=user.tokens, item=self.items[name].tokens, pair=named)
        return layouts


def build_encoders(schema: Schema, config: LfmConfig, *, tables: Tables) -> Encoders:
    """Return the encoders of every table set."""
    user = _kept(schema.select(side="user"), config)
    if config.context == "user":
        user += _kept(schema.select(side="context"), config)
    item = _kept(schema.select(side="item"), config)

    def side(features: list[str], *, name: str, table_set: str) -> SideEncoder:
        fields = FieldEncoder(
            schema, features, tables=tables, table_set=table_set, config=config.fields
        )
        return SideEncoder(fields, side=name, config=config)

    pairs: dict[str, PairFields] = {}
    if config.pairs.interests or config.pairs.similarities:
        pairs = {
            one: PairFields(schema, tables=tables, table_set=one, config=config.pairs)
            for one in config.table_sets
        }
    return Encoders(
        {one: side(user, name="user", table_set=one) for one in config.table_sets},
        {one: side(item, name="item", table_set=one) for one in config.table_sets},
        pairs,
    )


def build_mix(
    schema: Schema,
    config: LfmConfig,
    *,
    layouts: Mapping[str, SetLayout],
    domains: Sequence[str],
    tasks: Iterable[str],
) -> MixTower:
    """Return the mix tower with the branches of some domains and the streams of some tasks."""
    per_task = config.mix.merge.per_task
    streams = list(tasks) if per_task else [""]
    access = plan_access(
        config.mix.all_experts,
        tasks=list(schema.tasks),
        streams=streams,
        reads=config.reads,
        trains=config.trains,
    )
    return MixTower(
        layouts,
        access,
        config=config.mix,
        domains=domains,
        streams=streams,
        dropout=config.dropout,
        spectral=config.heads.spectral,
    )


def build_heads(
    width: int, config: LfmConfig, *, scenarios: int, tasks: int
) -> ScenarioHeads | SngpHeads:
    """Return the heads of some tasks."""
    match config.heads.kind:
        case "linear":
            return ScenarioHeads(width, scenarios=scenarios, tasks=tasks)
        case "sngp":
            return SngpHeads(
                width,
                scenarios=scenarios,
                tasks=tasks,
                features=config.heads.features,
                decay=config.heads.decay,
            )


def _kept(features: list[str], config: LfmConfig) -> list[str]:
    return [name for name in features if name not in config.without]
