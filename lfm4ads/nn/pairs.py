"""Fields that see user and item together: target-aware interests, similarity of outside vectors.

They never enter UR or IR, which must not depend on the other side.
Dimension key: B rows, L events of a sequence, D width of an event, W summed widths of fields.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lfm4ads.core.errors import UserError
from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema
from lfm4ads.nn.fields import vector_spans
from lfm4ads.nn.sequences import bag_sums, to_padded
from lfm4ads.nn.similarity import SimilarityEncoder
from lfm4ads.nn.tables import Looked, Tables
from lfm4ads.nn.temporal import TemporalConfig, TemporalInterest


@dataclass(frozen=True, kw_only=True)
class InterestConfig:
    """One behaviour sequence, told by one or several parallel columns, against its target."""

    behaviours: tuple[str, ...]
    """Sequence features of the same events, such as their items and their categories."""
    targets: tuple[str, ...]
    """What each is compared with; it shares the behaviour's table."""

    def __post_init__(self) -> None:
        if not self.behaviours or len(self.behaviours) != len(self.targets):
            raise ValueError(
                "an interest needs as many targets as behaviours, at least one, got"
                f" {list(self.behaviours)} and {list(self.targets)}"
            )


@dataclass(frozen=True, kw_only=True)
class SimilarityConfig:
    """Two vector features of one outside space."""

    user: str
    item: str


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """Which fields see both sides."""

    interests: dict[str, InterestConfig] = field(default_factory=dict)
    """Temporal Interest Modules, by name."""
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    similarities: dict[str, SimilarityConfig] = field(default_factory=dict)
    """Similarity Encoding Embeddings, by name."""
    similarity_dim: int = 16
    dropout: float = 0.5
    """Share of rows that train without pair fields, as stored UR and IR must do downstream. Of .1,
    .5 and .8 the largest gave the best upstream and the best transfer (docs/LOG.md)."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"pairs.dropout must be in [0, 1), got {self.dropout}")
        both = set(self.interests) & set(self.similarities)
        if both:
            raise ValueError(f"pairs.interests and pairs.similarities both have a {min(both)}")

    @property
    def tables_of(self) -> list[str]:
        """Sequence features whose tables are looked up id by id."""
        return [name for one in self.interests.values() for name in one.behaviours]


def check_pairs(schema: Schema, config: PairConfig) -> None:
    """Refuse names that are not there, of another kind or of another table.

    Raises:
        UserError: on every rank.
    """
    for name, interest in config.interests.items():
        for behaviour, target in zip(interest.behaviours, interest.targets, strict=True):
            _check_interest(schema, name, behaviour=behaviour, target=target, config=config)
        _check_parallel(schema, name, interest)
    vectors = schema.select(kind="vector")
    for name, pair in config.similarities.items():
        for vector in (pair.user, pair.item):
            if vector not in vectors:
                raise UserError(
                    f"model.pairs.similarities.{name} names {vector}, which is no vector feature;"
                    f" those are {', '.join(vectors) or 'none'}",
                    everywhere=True,
                )
        lengths = [schema.features[vector].length for vector in (pair.user, pair.item)]
        if lengths[0] != lengths[1]:
            raise UserError(
                f"model.pairs.similarities.{name} compares {pair.user} of length {lengths[0]} with"
                f" {pair.item} of length {lengths[1]}; a cosine needs vectors of one space",
                everywhere=True,
            )


def _check_interest(
    schema: Schema, name: str, *, behaviour: str, target: str, config: PairConfig
) -> None:
    where = f"model.pairs.interests.{name}"
    if behaviour not in schema.select(kind="sequence"):
        raise UserError(
            f"{where} names {behaviour}, which is no sequence feature; those are"
            f" {', '.join(schema.select(kind='sequence')) or 'none'}",
            everywhere=True,
        )
    if target not in schema.select(sparse=True):
        raise UserError(
            f"{where} names target {target}, which is no sparse feature", everywhere=True
        )
    tables = [schema.features[one].table for one in (behaviour, target)]
    if tables[0] != tables[1]:
        raise UserError(
            f"{where}: {behaviour} reads table {tables[0]} and its target {target} reads"
            f" {tables[1]}; a behaviour shares its target's table",
            everywhere=True,
        )
    feature = schema.features[behaviour]
    if not feature.max_length:
        raise UserError(
            f"{where}: give {behaviour} a max_length in schema.yaml; without one a sequence may be"
            " of any length",
            everywhere=True,
        )
    if config.temporal.gaps and not feature.times:
        raise UserError(
            f"{where}: {behaviour} has no times column in schema.yaml; name one or set"
            " pairs.temporal.gaps=false",
            everywhere=True,
        )


def _check_parallel(schema: Schema, name: str, interest: InterestConfig) -> None:
    features = [schema.features[behaviour] for behaviour in interest.behaviours]
    for behaviour, feature in zip(interest.behaviours[1:], features[1:], strict=True):
        same = feature.times == features[0].times and feature.max_length == features[0].max_length
        if not (same and feature.times):
            raise UserError(
                f"model.pairs.interests.{name}: {interest.behaviours[0]} and {behaviour} must tell"
                " the same events; give both one times column and one max_length in schema.yaml",
                everywhere=True,
            )


class PairFields(nn.Module):
    """The pair fields of one table set."""

    def __init__(
        self, schema: Schema, *, tables: Tables, table_set: str, config: PairConfig
    ) -> None:
        super().__init__()
        self._interests = dict(config.interests)
        self._similarities = dict(config.similarities)
        self._spans = vector_spans(schema)
        self._sparse = schema.select(sparse=True)
        self._keys = {
            name: tables.key(name, table_set=table_set)
            for one in config.interests.values()
            for name in (*one.behaviours, *one.targets)
        }
        self._averaged = [name for name in self._keys if schema.features[name].kind != "id"]
        self._gaps = config.temporal.gaps
        self._widths = {name: tables.dim(name, table_set=table_set) for name in self._keys}
        self.temporal = nn.ModuleDict()
        self.similarity = nn.ModuleDict()
        self.names = [*self._interests, *self._similarities]
        self.dims: list[int] = []
        for name, one in self._interests.items():
            dim = sum(self._widths[behaviour] for behaviour in one.behaviours)
            longest = max(schema.features[behaviour].max_length for behaviour in one.behaviours)
            self.temporal[name] = TemporalInterest(dim, max_length=longest, config=config.temporal)
            self.dims.append(dim)
        for name in self._similarities:
            self.similarity[name] = SimilarityEncoder(config.similarity_dim)
            self.dims.append(config.similarity_dim)
        self._longest = {
            name: max(schema.features[behaviour].max_length for behaviour in one.behaviours)
            for name, one in self._interests.items()
        }
        self.width = sum(self.dims)

    def forward(self, looked: Looked, batch: Batch) -> Tensor:
        """Return (B, width)."""
        lengths_FB = batch.sparse.lengths().view(len(self._sparse), -1)
        parts = [self._interest(name, looked, batch, lengths_FB) for name in self._interests]
        for name, pair in self._similarities.items():
            sides = [batch.vectors[:, slice(*self._spans[one])] for one in (pair.user, pair.item)]
            parts.append(self.similarity[name](*sides))
        return torch.cat(parts, dim=1)

    def interests_of(self, behaviours: str, *, target: str) -> list[str]:
        """Return the interests that hold a sequence feature against a target."""
        return [
            name
            for name, one in self._interests.items()
            if (behaviours, target) in zip(one.behaviours, one.targets, strict=True)
        ]

    def first_column(self, interest: str, behaviours: str) -> int:
        """Return where a feature's part of an interest's vectors begins."""
        before = self._interests[interest].behaviours
        return sum(self._widths[name] for name in before[: before.index(behaviours)])

    def _interest(self, name: str, looked: Looked, batch: Batch, lengths_FB: Tensor) -> Tensor:
        one, longest = self._interests[name], self._longest[name]
        lengths = {
            feature: lengths_FB[self._sparse.index(feature)]
            for feature in (*one.behaviours, *one.targets)
        }
        lengths_B = lengths[one.behaviours[0]]
        events_BLD = torch.cat(
            [
                to_padded(looked.rows[self._keys[behaviour]], lengths_B, longest)
                for behaviour in one.behaviours
            ],
            dim=2,
        )
        target_BD = torch.cat([self._target(t, looked, lengths[t]) for t in one.targets], dim=1)
        ages_BL = None
        if self._gaps:
            ages_V1 = batch.ages[one.behaviours[0]].unsqueeze(1)
            ages_BL = to_padded(ages_V1, lengths_B, longest).squeeze(2)
        return self.temporal[name](events_BLD, lengths_B, target_BD, ages_BL)

    def _target(self, feature: str, looked: Looked, lengths_B: Tensor) -> Tensor:
        sum_BD = bag_sums(looked.rows[self._keys[feature]], lengths_B)
        if feature in self._averaged:
            return sum_BD / lengths_B.clamp(min=1).unsqueeze(1)
        return sum_BD


def unpooled_tables(schema: Schema, config: PairConfig) -> Sequence[str]:
    """Return the tables that interests read id by id."""
    return sorted({schema.features[name].table for name in config.tables_of})
