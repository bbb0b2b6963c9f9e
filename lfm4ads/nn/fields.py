"""From a batch's features to one wide vector a row.

Dimension key: B rows, D width of the pooled embeddings, F sparse features, N numbers, K number
width, V summed vector lengths.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedTensor

from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema


def build_tables(
    schema: Schema, features: Sequence[str], *, prefix: str = ""
) -> EmbeddingBagCollection:
    """Return the embedding tables of the named sparse features, without memory (meta device).

    Tables sum; means are taken by ``FieldEncoder``: a sum is right under every sharding type.
    """
    wanted = {name for name in features if schema.features[name].is_sparse}
    users: dict[str, list[str]] = {}
    for name in schema.features:
        if name in wanted:
            users.setdefault(schema.features[name].table, []).append(name)
    return EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            EmbeddingBagConfig(
                name=f"{prefix}{table}",
                embedding_dim=schema.tables[table].dim,
                num_embeddings=schema.tables[table].rows,
                feature_names=names,
                pooling=PoolingType.SUM,
            )
            for table, names in users.items()
        ],
    )


class FieldEncoder(nn.Module):
    """Concatenates embeddings, numbers and vectors of some features; lists are averaged.

    A number x becomes x * v + c with its own v and c (K,); a vector goes through its own linear
    map. Missing ones (NaN) count as zero: the mean of a standardised number.
    """

    _key: Tensor
    _column: Tensor
    _number: Tensor

    def __init__(
        self, schema: Schema, features: Sequence[str], *, number_dim: int, vector_dim: int
    ) -> None:
        super().__init__()
        chosen = [name for name in schema.features if name in set(features)]
        kinds = {name: schema.features[name].kind for name in chosen}
        self.sparse = [name for name in chosen if schema.features[name].is_sparse]
        dims = [schema.tables[schema.features[name].table].dim for name in self.sparse]
        keys = schema.select(sparse=True)
        lists = [kinds[name] != "id" for name in self.sparse]
        self._has_lists = any(lists)
        self.register_buffer(
            "_key", torch.tensor([keys.index(name) for name in self.sparse]), persistent=False
        )
        columns = torch.repeat_interleave(
            torch.arange(len(dims)), torch.tensor(dims, dtype=torch.long)
        )
        self.register_buffer("_column", columns, persistent=False)

        numbers = [name for name in chosen if kinds[name] == "number"]
        positions = [schema.select(kind="number").index(name) for name in numbers]
        self.register_buffer("_number", torch.tensor(positions, dtype=torch.long), persistent=False)
        self.number_weight = (
            nn.Parameter(torch.empty(len(numbers), number_dim)) if numbers else None
        )
        self.number_bias = nn.Parameter(torch.empty(len(numbers), number_dim)) if numbers else None
        for parameter in (self.number_weight, self.number_bias):
            if parameter is not None:
                nn.init.normal_(parameter, std=0.1)

        self._vectors = _spans(schema)
        vectors = [name for name in chosen if kinds[name] == "vector"]
        self.vector_maps = nn.ModuleDict(
            {name: nn.Linear(schema.features[name].length, vector_dim) for name in vectors}
        )
        self.width = sum(dims) + number_dim * len(numbers) + vector_dim * len(vectors)

    def forward(self, pooled: KeyedTensor, batch: Batch) -> Tensor:
        """Return (B, width)."""
        parts: list[Tensor] = []
        if self.sparse:
            parts.append(self._embeddings(pooled, batch))
        if self.number_weight is not None and self.number_bias is not None:
            numbers_BN1 = batch.numbers[:, self._number].nan_to_num().unsqueeze(-1)
            parts.append((numbers_BN1 * self.number_weight + self.number_bias).flatten(1))
        for name, linear in self.vector_maps.items():
            start, stop = self._vectors[name]
            parts.append(linear(batch.vectors[:, start:stop].nan_to_num()))
        return torch.cat(parts, dim=1)

    def _embeddings(self, pooled: KeyedTensor, batch: Batch) -> Tensor:
        (sum_BD,) = KeyedTensor.regroup([pooled], [self.sparse])
        if not self._has_lists:
            return sum_BD
        lengths_FB = batch.sparse.lengths().view(len(batch.sparse.keys()), -1)[self._key]
        scale_BF = lengths_FB.clamp(min=1).to(sum_BD.dtype).reciprocal().t()
        return sum_BD * scale_BF[:, self._column]


def _spans(schema: Schema) -> Mapping[str, tuple[int, int]]:
    spans: dict[str, tuple[int, int]] = {}
    at = 0
    for name in schema.select(kind="vector"):
        spans[name] = (at, at + schema.features[name].length)
        at = spans[name][1]
    return spans
