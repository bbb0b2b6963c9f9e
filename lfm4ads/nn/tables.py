"""Embedding tables, one or several complete sets of them, and what a batch looks up.

Dimension key: B rows, D width of a row, V ids of a feature in a batch.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    PoolingType,
)
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from lfm4ads.core.errors import UserError
from lfm4ads.data.schema import Schema


@dataclass(frozen=True, kw_only=True)
class TableSet:
    """One complete set of tables: every feature has its own row in each set (multi-embedding)."""

    dim: int = 0
    """Width of every row; 0 keeps the schema's widths."""

    def __post_init__(self) -> None:
        if self.dim < 0 or self.dim % 4:
            raise ValueError(f"a table set's dim must be a multiple of 4, or 0, got {self.dim}")


@dataclass
class Looked:
    """What the tables hold for one batch."""

    pooled: KeyedTensor | None
    """Sums over each bag, by key."""
    rows: dict[str, Tensor]
    """Unpooled rows (V, D), by key; as many a batch row as the feature's length says."""

    def tensors(self) -> list[Tensor]:
        """Return all that was looked up; what a model reads of it are parts of these."""
        return [*([] if self.pooled is None else [self.pooled.values()]), *self.rows.values()]


@dataclass(frozen=True, kw_only=True)
class ManagedTable:
    """A table whose ids come unbounded, and which says itself what row each has."""

    rows: int
    features: tuple[str, ...]
    names: tuple[str, ...]
    """Of the table in each set: the same id has the same row in all of them."""


class Remap(Protocol):
    """Puts rows in the place of ids of managed tables; ranks agree on them."""

    def __call__(self, sparse: KeyedJaggedTensor, *, training: bool) -> KeyedJaggedTensor:
        """Return the batch with rows; in training the ids count as seen."""
        ...


class Tables(nn.Module):
    """Tables on the meta device, named ``<set>/<table>``, or ``<table>`` in a set without name.

    Sets are separate tables and never one wide row: row-wise AdaGrad holds one accumulator a row
    and would couple them. Tables sum; a sum is right under every sharding type. A table in
    ``unpooled`` is looked up id by id, for its sequences, in a collection of its own width.

    Where there are ``managed`` tables, whoever places the model sets ``remap``.
    """

    def __init__(
        self,
        schema: Schema,
        features: Sequence[str],
        *,
        sets: Mapping[str, TableSet],
        apart: Mapping[str, Sequence[str]] | None = None,
        unpooled: Collection[str] = (),
    ) -> None:
        """``apart``: further sets, of the schema's widths, with the features each has."""
        super().__init__()
        used = {
            (set_name, table): names
            for set_name, chosen in {**dict.fromkeys(sets, features), **(apart or {})}.items()
            for table, names in _by_table(schema, chosen).items()
        }
        self._table = {name: table for (_, table), names in used.items() for name in names}
        self._unpooled = set(unpooled) & set(self._table.values())
        self._dims = {
            (set_name, table): sets.get(set_name, TableSet()).dim or schema.tables[table].dim
            for set_name, table in used
        }
        bags: list[EmbeddingBagConfig] = []
        rows: dict[str, list[EmbeddingConfig]] = {}
        for (set_name, table), dim in self._dims.items():
            words = {
                "name": _name(set_name, table),
                "embedding_dim": dim,
                "num_embeddings": schema.tables[table].rows,
                "feature_names": used[set_name, table],
            }
            if table in self._unpooled:
                rows.setdefault(f"dim_{dim}", []).append(EmbeddingConfig(**words))
            else:
                bags.append(EmbeddingBagConfig(**words, pooling=PoolingType.SUM))
        meta = torch.device("meta")
        self.bags = EmbeddingBagCollection(tables=bags, device=meta) if bags else None
        self.rows = nn.ModuleDict(
            {name: EmbeddingCollection(tables=tables, device=meta) for name, tables in rows.items()}
        )
        self._pooled_keys = _keys(bags)
        self._row_keys = {name: _keys(tables) for name, tables in rows.items()}
        self._last: Looked | None = None
        self.managed = _managed(schema, used)
        self.remap: Remap | None = None

    def key(self, feature: str, *, table_set: str) -> str:
        """Return the name under which a feature's rows of one set are found in ``Looked``."""
        key = f"{feature}@{_name(table_set, self._table[feature])}"
        return self._pooled_keys.get(key, key)

    def dim(self, feature: str, *, table_set: str) -> int:
        """Return the width of a feature's rows in one set."""
        return self._dims[table_set, self._table[feature]]

    def is_pooled(self, feature: str) -> bool:
        """Whether a feature comes as bag sums and not id by id."""
        return self._table[feature] not in self._unpooled

    def forward(self, sparse: KeyedJaggedTensor) -> Looked:
        """Look up every feature in every set."""
        self._last = None  # the former batch's rows make room first
        if self.managed:
            assert self.remap is not None, "managed tables are looked up in a sharded model"
            sparse = self.remap(sparse, training=self.training)
        rows: dict[str, Tensor] = {}
        for name, collection in self.rows.items():
            found = collection(sparse)
            rows |= {key: found[own].values() for key, own in self._row_keys[name].items()}
        self._last = Looked(self.bags(sparse) if self.bags is not None else None, rows)
        return self._last

    @property
    def last(self) -> Looked | None:
        """What was looked up last; a model that learns holds it until the next batch."""
        return self._last

    def broken(self) -> tuple[str, str] | None:
        """Return a feature whose last lookup is not finite, and the table; None if all are finite.

        What was looked up is asked and not the tables: their rows may live on other ranks.
        """
        if self._last is None:
            return None
        found = dict(self._last.rows)
        if self._last.pooled is not None:
            pooled = self._last.pooled
            found |= {key: pooled[own] for key, own in self._pooled_keys.items()}
        for key, values in found.items():
            if not torch.isfinite(values).all():
                feature, _, table = key.partition("@")
                return feature, table
        return None


def looked_up(model: nn.Module) -> list[Tensor]:
    """Return what the tables of a model gave for its last batch, where gradients can be taken."""
    looked = [one.last for one in model.modules() if isinstance(one, Tables)]
    found = [tensor for one in looked if one is not None for tensor in one.tensors()]
    return [tensor for tensor in found if tensor.requires_grad]


def check_features(schema: Schema, names: Sequence[str], *, setting: str) -> None:
    """Refuse names of features that the schema does not have."""
    unknown = set(names) - set(schema.features)
    if unknown:
        raise UserError(
            f"{setting} names {min(unknown)}, which the schema does not have;"
            f" its features are {', '.join(schema.features)}",
            everywhere=True,
        )


def _by_table(schema: Schema, features: Collection[str]) -> dict[str, list[str]]:
    used: dict[str, list[str]] = {}
    for name in schema.select(sparse=True):
        if name in features:
            used.setdefault(schema.features[name].table, []).append(name)
    return used


def _managed(schema: Schema, used: Mapping[tuple[str, str], list[str]]) -> dict[str, ManagedTable]:
    """Return the managed tables by their names in the schema; some sets may read fewer features."""
    managed: dict[str, ManagedTable] = {}
    for table, spec in schema.tables.items():
        if spec.ids == "managed":
            readers = {set_name: names for (set_name, own), names in used.items() if own == table}
            features = dict.fromkeys(name for names in readers.values() for name in names)
            if features:
                managed[table] = ManagedTable(
                    rows=spec.rows,
                    features=tuple(features),
                    names=tuple(_name(set_name, table) for set_name in readers),
                )
    return managed


def _keys(tables: Sequence[EmbeddingBagConfig] | Sequence[EmbeddingConfig]) -> dict[str, str]:
    """Return TorchRec's name of each ``<feature>@<table>``: the feature where it has one table."""
    readers = Counter(name for table in tables for name in table.feature_names)
    return {
        f"{name}@{table.name}": f"{name}@{table.name}" if readers[name] > 1 else name
        for table in tables
        for name in table.feature_names
    }


def _name(table_set: str, table: str) -> str:
    return f"{table_set}/{table}" if table_set else table
