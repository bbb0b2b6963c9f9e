"""Parts of the foundation model, which a downstream model can also hold.

Dimension key: B rows, U width of a side's representation in one table set.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema
from lfm4ads.model.config import LfmConfig
from lfm4ads.nn.access import plan_access
from lfm4ads.nn.fields import FieldEncoder
from lfm4ads.nn.heads import ScenarioHeads
from lfm4ads.nn.mix import MixTower, SetLayout
from lfm4ads.nn.pairs import PairFields, unpooled_tables
from lfm4ads.nn.sngp import SngpHeads
from lfm4ads.nn.tables import Looked, Tables
from lfm4ads.nn.tower import Tower


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


def build_tables(schema: Schema, config: LfmConfig) -> Tables:
    """Return every table set, on the meta device."""
    features = kept(list(schema.features), config)
    apart: dict[str, list[str]] = {}
    if config.context_set not in config.table_sets:
        apart[config.context_set] = shifting(schema, config)
        features = [name for name in features if name not in apart[config.context_set]]
    for one in config.pairs.interests.values():
        features += [*one.behaviours, *one.targets]
    return Tables(
        schema,
        features,
        sets=config.table_sets,
        apart=apart,
        unpooled=unpooled_tables(schema, config.pairs),
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
    user = kept(schema.select(side="user"), config)
    if config.context == "user":
        user += kept(schema.select(side="context"), config)
    item = kept(schema.select(side="item"), config)

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


def shifting(schema: Schema, config: LfmConfig) -> list[str]:
    """Return the context features that shift the logit."""
    return kept(schema.select(side="context"), config) if config.context == "logit" else []


def kept(features: list[str], config: LfmConfig) -> list[str]:
    """Return the features that towers read."""
    return [name for name in features if name not in config.without]
