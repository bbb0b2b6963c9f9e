"""From a batch's features to fields side by side.

Dimension key: B rows, F fields, N numbers, V summed vector lengths, W summed widths of fields.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedTensor

from lfm4ads.core.errors import UserError
from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import FeatureKind, Schema
from lfm4ads.nn.lsh import HyperplaneCode
from lfm4ads.nn.numbers import LinearNumbers, NumberConfig, NumeralNumbers
from lfm4ads.nn.numerals import NumeralConfig, NumeralEncoder
from lfm4ads.nn.sequences import bag_sums
from lfm4ads.nn.tables import Looked, Tables


@dataclass(frozen=True, kw_only=True)
class VectorConfig:
    """How pre-trained vectors become fields."""

    dim: int = 16
    codes: dict[str, int] = field(default_factory=dict)
    """Vector features that also give a code of so many bits by locality-sensitive hashing, so that
    look-alike creatives share most of its rows. Every vector goes through a linear map."""

    def __post_init__(self) -> None:
        for name, bits in self.codes.items():
            if not 1 <= bits <= 24:
                raise ValueError(f"vector.codes.{name} must be 1 to 24 bits, got {bits}")


@dataclass(frozen=True, kw_only=True)
class FieldConfig:
    """How features become fields."""

    number: NumberConfig = field(default_factory=NumberConfig)
    vector: VectorConfig = field(default_factory=VectorConfig)


class FieldEncoder(nn.Module):
    """Concatenates some features of one table set: embeddings, numbers, vectors.

    Lists are averaged. ``names`` and ``dims`` tell the fields in the order of the output.
    """

    _lengths: Tensor
    _column: Tensor
    _raw: Tensor
    _linear: Tensor
    _numerals: Tensor

    def __init__(
        self,
        schema: Schema,
        features: Sequence[str],
        *,
        tables: Tables,
        table_set: str = "",
        config: FieldConfig,
    ) -> None:
        super().__init__()
        chosen = [name for name in schema.features if name in set(features)]
        kinds = {name: schema.features[name].kind for name in chosen}
        sparse = [name for name in chosen if schema.features[name].is_sparse]
        pooled = [name for name in sparse if tables.is_pooled(name)]
        unpooled = [name for name in sparse if not tables.is_pooled(name)]
        numbers = [name for name in chosen if kinds[name] == "number"]
        linear = [name for name in numbers if config.number.kind_of(name) == "linear"]
        raw = [name for name in numbers if config.number.kind_of(name) == "raw"]
        numerals = [name for name in numbers if name not in (*linear, *raw)]
        vectors = [name for name in chosen if kinds[name] == "vector"]
        codes = [name for name in vectors if config.vector.codes.get(name)]
        self.names = [*pooled, *unpooled, *raw, *linear, *numerals, *vectors]
        self.names += [f"{name}_code" for name in codes]
        dims = [tables.dim(name, table_set=table_set) for name in (*pooled, *unpooled)]
        self.dims = [
            *dims,
            *[1] * len(raw),
            *[config.number.dim] * len([*linear, *numerals]),
            *[config.vector.dim] * len([*vectors, *codes]),
        ]
        if not self.dims:
            raise UserError(
                "one side of the model has no feature left; take some of model.without back, or"
                " give the schema a feature of that side",
                everywhere=True,
            )
        self.width = sum(self.dims)
        self._pooled = [tables.key(name, table_set=table_set) for name in pooled]
        self._unpooled = [tables.key(name, table_set=table_set) for name in unpooled]
        self._has_lists = any(kinds[name] != "id" for name in sparse)
        keys = schema.select(sparse=True)
        self._register("_lengths", [keys.index(name) for name in (*pooled, *unpooled)])
        columns = torch.repeat_interleave(torch.arange(len(dims)), torch.tensor(dims).long())
        self.register_buffer("_column", columns, persistent=False)
        number = schema.select(kind="number")
        self._register("_raw", [number.index(name) for name in raw])
        self._register("_linear", [number.index(name) for name in linear])
        self._register("_numerals", [number.index(name) for name in numerals])
        self.linear = LinearNumbers(len(linear), dim=config.number.dim) if linear else None
        specs = [schema.features[name] for name in numerals]
        self.numerals = NumeralNumbers(specs, numerals, config=config.number) if numerals else None
        self._vectors = vector_spans(schema)
        self.vector_maps = nn.ModuleDict()
        for name in vectors:
            length = schema.features[name].length
            self.vector_maps[name] = _VectorMap(length, config.vector.dim)
        self.vector_codes = nn.ModuleDict()
        for name in codes:
            length, bits = schema.features[name].length, config.vector.codes[name]
            self.vector_codes[name] = _VectorCode(length, config.vector.dim, bits=bits)

    def forward(self, looked: Looked, batch: Batch) -> Tensor:
        """Return (B, width)."""
        parts: list[Tensor] = []
        if self._pooled or self._unpooled:
            parts.append(self._embeddings(looked, batch))
        if len(self._raw):
            parts.append(torch.nan_to_num(batch.numbers[:, self._raw]))
        if self.linear is not None:
            parts.append(self.linear(batch.numbers[:, self._linear]))
        if self.numerals is not None:
            parts.append(self.numerals(batch.numbers[:, self._numerals]))
        for encoders in (self.vector_maps, self.vector_codes):
            for name, encoder in encoders.items():
                start, stop = self._vectors[name]
                parts.append(encoder(batch.vectors[:, start:stop]))
        return torch.cat(parts, dim=1)

    def _embeddings(self, looked: Looked, batch: Batch) -> Tensor:
        lengths_FB = batch.sparse.lengths().view(len(batch.sparse.keys()), -1)[self._lengths]
        sums: list[Tensor] = []
        if self._pooled:
            assert looked.pooled is not None
            sums += KeyedTensor.regroup([looked.pooled], [self._pooled])
        for key, lengths_B in zip(self._unpooled, lengths_FB[len(self._pooled) :], strict=True):
            sums.append(bag_sums(looked.rows[key], lengths_B))
        sum_BW = torch.cat(sums, dim=1) if len(sums) > 1 else sums[0]
        if not self._has_lists:
            return sum_BW
        scale_BF = lengths_FB.clamp(min=1).to(sum_BW.dtype).reciprocal().t()
        return sum_BW * scale_BF[:, self._column]

    def _register(self, name: str, positions: list[int]) -> None:
        self.register_buffer(name, torch.tensor(positions, dtype=torch.long), persistent=False)


class _VectorMap(nn.Module):
    """A linear map; a missing vector counts as zeros."""

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(length, dim)

    def forward(self, vector_BV: Tensor) -> Tensor:
        return self.linear(torch.nan_to_num(vector_BV))


class _VectorCode(nn.Module):
    """The digits of a vector's locality-sensitive code; a missing vector has a row of its own."""

    def __init__(self, length: int, dim: int, *, bits: int) -> None:
        super().__init__()
        self.code = HyperplaneCode(length, bits=bits, seed=0)
        # Base 2 alone: one row a hyperplane, so that near codes share most rows.
        self.digits = NumeralEncoder(1, levels=1 << bits, dim=dim, config=NumeralConfig(bases=(2,)))

    def forward(self, vector_BV: Tensor) -> Tensor:
        return self.digits(self.code(vector_BV).unsqueeze(1)).squeeze(1)


def vector_spans(schema: Schema) -> Mapping[str, tuple[int, int]]:
    """Return where each vector feature stands in ``Batch.vectors``: its first and last column."""
    spans: dict[str, tuple[int, int]] = {}
    at = 0
    for name in schema.select(kind="vector"):
        spans[name] = (at, at + schema.features[name].length)
        at = spans[name][1]
    return spans


def check_codes(schema: Schema, config: FieldConfig) -> None:
    """Refuse codes and quantisers of features that are not there or of another kind."""
    settings: list[tuple[str, Iterable[str], FeatureKind]] = [
        ("vector.codes", config.vector.codes, "vector"),
        ("number.kinds", config.number.kinds, "number"),
    ]
    for setting, names, kind in settings:
        for name in names:
            if name not in schema.select(kind=kind):
                raise UserError(
                    f"fields.{setting} names {name}, which is no {kind} feature; those are"
                    f" {', '.join(schema.select(kind=kind)) or 'none'}",
                    everywhere=True,
                )
