"""Standalone Retrieval: a query per user, a vector per item, their dot product (arXiv 2508.14948).

Dimension key: B rows, R summed width of the representations, P their number, D width of the space
of items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn

from lfm4ads.core.errors import UserError
from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema, Side
from lfm4ads.nn.fields import FieldConfig, FieldEncoder, check_codes
from lfm4ads.nn.mlp import Mlp
from lfm4ads.nn.standardise import Standardiser
from lfm4ads.nn.tables import Tables, TableSet, check_features

ITEM = "item.ir"
"""The representation that stands for an item."""
RetrievalLoss = Literal["softmax", "bce"]


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Shape of the query map and of the towers of the arm without an upstream."""

    hidden: tuple[int, ...] = ()
    """Hidden layers of the map, and of both towers; empty is the linear map W r + b."""
    temperature: float = 1.0
    """Scores are divided by it; a map can learn any, so it only sets where training starts."""
    learn_temperature: bool = False
    popularity_days: int = 0
    """Append to IR the log of an item's share of the rows of so many days before; 0 does not."""
    query_lr_scale: float = 0.1
    """Learning rate of the map from representations as a share of the dense one: it has thousands
    of weights for some thousand positives, and from IR's space it need not go far."""
    dim: int = 64
    """Width of the space of the arm without an upstream; the others live in that of IR."""
    features: tuple[str, ...] = ()
    """Features the arm without an upstream may read; empty means all of user and item."""
    fields: FieldConfig = field(default_factory=FieldConfig)

    def __post_init__(self) -> None:
        if len(self.hidden) > 1:
            raise ValueError(f"model.hidden takes at most one layer, got {list(self.hidden)}")
        if self.temperature <= 0 or self.dim < 1:
            raise ValueError("model.temperature and model.dim must be positive")
        if self.popularity_days < 0:
            raise ValueError(f"model.popularity_days must not be {self.popularity_days}")


@dataclass
class Retrieved:
    """Both sides of a batch."""

    query_BD: Tensor
    """Already divided by the temperature."""
    item_BD: Tensor
    known_B: Tensor
    """1 where the item has a vector; the others are zeros."""
    logits_B1: Tensor
    """Query times item, with the user's own term under BCE: what exposed rows are scored by."""


class Retrieval(nn.Module):
    """score(u, i) = (W r_u + b) . IR(i), with IR and r_u frozen; only W and b learn.

    r_u is any choice of the user's representations side by side, each standardised, zero where the
    user has none, with its presence. IR is standardised too, which changes the order of items for
    no map: it moves a factor into W, and a user's own term that no order of items depends on.
    Without representations it is two towers over embeddings of their own ("Retriever").
    """

    def __init__(
        self,
        schema: Schema,
        config: RetrievalConfig,
        *,
        query: Sequence[str],
        rep_dims: Mapping[str, int],
        loss: RetrievalLoss,
    ) -> None:
        """``query``: names in ``rep_dims``, whose others stand for an item; empty: own towers."""
        super().__init__()
        self._query = list(query)
        self._temperature = config.temperature
        if self._query:
            self._item = [name for name in rep_dims if name.startswith("item.")]
            self.dim = sum(rep_dims[name] for name in self._item)
            self.standardiser = Standardiser(rep_dims)
            width = sum(rep_dims[name] for name in self._query) + len(self._query)
        else:
            self.dim = config.dim
            self.tables, self.users, self.items = _towers(schema, config)
            self.item_map = Mlp(self.items.width, (*config.hidden, self.dim))
            width = self.users.width
        self.query_map = Mlp(width, (*config.hidden, self.dim))
        if self._query:
            # All items score alike at the start; against two fresh towers that would be a saddle.
            _zero(self.query_map.layers[-1])
        # Dense parameters must all take part in every step, so there is none that is not used.
        self.user_term = nn.Linear(width, 1) if loss == "bce" else None
        if self.user_term is not None:
            _zero(self.user_term)
        learns = config.learn_temperature
        self.log_temperature = nn.Parameter(torch.zeros(())) if learns else None

    @property
    def stored(self) -> bool:
        """Whether both sides come from stored representations."""
        return bool(self._query)

    def forward(self, batch: Batch) -> Retrieved:
        """Return both sides of every row."""
        if self.stored:
            input_BR, item_BD = self._stored_user(batch), self.encode_items(batch)
            known_B = batch.present[ITEM]
        else:
            looked = self.tables(batch.sparse)
            input_BR = self.users(looked, batch)
            item_BD = self.item_map(self.items(looked, batch))[-1]
            known_B = torch.ones_like(batch.valid, dtype=item_BD.dtype)
        query_BD = self._map(input_BR)
        logits_B1 = (query_BD * item_BD).sum(1, keepdim=True)
        if self.user_term is not None:
            logits_B1 = logits_B1 + self.user_term(input_BR)
        return Retrieved(query_BD, item_BD, known_B, logits_B1)

    def encode_users(self, batch: Batch) -> Tensor:
        """Return queries (B, D) from stored representations alone."""
        return self._map(self._stored_user(batch))

    def encode_items(self, batch: Batch) -> Tensor:
        """Return vectors (B, D) from stored representations alone."""
        return self.standardiser(batch, self._item)

    def set_prior(self, rate: float) -> None:
        """Start at the base rate of a BCE's label."""
        if self.user_term is not None:
            nn.init.constant_(self.user_term.bias, torch.logit(torch.tensor(rate)).item())

    def set_popularity(self, name: str, *, std: float) -> None:
        """Start a softmax from lists of the most shown items: score = log share of ``name``.

        ``std``: what the standardiser divides the log share by.
        """
        columns = [self.standardiser.dims[one] for one in self._item]
        place = sum(columns[: self._item.index(name)])
        bias = cast(nn.Linear, self.query_map.layers[-1]).bias
        with torch.no_grad():
            bias[place] = std * self._temperature

    def _stored_user(self, batch: Batch) -> Tensor:
        present_BP = torch.stack([batch.present[name] for name in self._query], dim=1)
        return torch.cat([self.standardiser(batch, self._query), present_BP], dim=1)

    def _map(self, input_BR: Tensor) -> Tensor:
        query_BD = self.query_map(input_BR)[-1] / self._temperature
        return (
            query_BD if self.log_temperature is None else query_BD * (-self.log_temperature).exp()
        )


def _towers(schema: Schema, config: RetrievalConfig) -> tuple[Tables, FieldEncoder, FieldEncoder]:
    check_features(schema, config.features, setting="model.features")
    check_codes(schema, config.fields)
    chosen = config.features or tuple(schema.features)
    sides: dict[Side, list[str]] = {
        side: [name for name in schema.select(side=side) if name in chosen]
        for side in ("user", "item")
    }
    for side, names in sides.items():
        if not names:
            raise UserError(
                f"model.features leaves the retriever no {side} feature; name one of"
                f" {', '.join(schema.select(side=side)) or 'none: the schema has none'}",
                everywhere=True,
            )
    tables = Tables(schema, [*sides["user"], *sides["item"]], sets={"": TableSet()})
    users, items = (
        FieldEncoder(schema, names, tables=tables, config=config.fields) for names in sides.values()
    )
    return tables, users, items


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
