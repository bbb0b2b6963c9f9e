"""Models on one process without sharding, and plain optimisers: what sharding must not change."""

import torch
from torch import nn

from lfm4ads.shard.initialise import row_values


def unshard(model: nn.Module, *, seed: int) -> nn.Module:
    """Give the tables of ``model`` memory on this process and the first values of ``seed``."""
    model.tables.to_empty(device=torch.device("cpu"))
    with torch.no_grad():
        for name, weight in tables_of(model).items():
            rows, dim = weight.shape
            values = row_values(
                name, rows=range(rows), columns=range(dim), shape=(rows, dim), seed=seed
            )
            weight.copy_(values)
    return model


def tables_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weight of every table by its name, whether it is read as sums or id by id."""
    return {name.split(".")[-2]: weight for name, weight in model.tables.named_parameters()}


class PlainTrainer:
    """Steps an unsharded model: AdamW after clipping for the dense part, FBGEMM's rules for tables.

    ``column_shards`` is how many pieces a table's columns are cut into: row-wise AdaGrad keeps an
    accumulator per row and piece.
    """

    def __init__(self, model, *, optim, column_shards=None):
        self.model = model
        tables = {id(weight): name for name, weight in tables_of(model).items()}
        self._dense = [p for p in model.parameters() if id(p) not in tables]
        self._tables = [(tables[id(p)], p) for p in model.parameters() if id(p) in tables]
        self._adam = torch.optim.AdamW(
            self._dense, lr=optim.dense_lr, weight_decay=optim.weight_decay
        )
        self._optim = optim
        self._column_shards = column_shards or {}
        self._sums = {name: torch.zeros_like(p) for name, p in self._tables}
        self.clipped_steps = 0

    def step(self, loss):
        self.model.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum(p.grad.square().sum() for p in self._dense))
        limit = self._optim.clip_norm
        if limit and norm > limit:
            self.clipped_steps += 1
            for p in self._dense:
                p.grad.mul_(limit / norm)
        self._adam.step()
        with torch.no_grad():
            for name, table in self._tables:
                self._update(name, table)

    def _update(self, name, table):
        step = self._optim.sparse_lr * table.grad
        if self._optim.sparse_kind != "sgd":
            squared = table.grad.square()
            if self._optim.sparse_kind == "rowwise_adagrad":
                pieces = squared.chunk(self._column_shards.get(name, 1), dim=1)
                squared = torch.cat(
                    [one.mean(dim=1, keepdim=True).expand_as(one) for one in pieces], dim=1
                )
            self._sums[name] += squared
            step = step / (self._sums[name].sqrt() + 1e-8)
        table -= step
