"""Rows of tables that begin anew: first values again, and optimiser state of nothing.

Dimension key: N rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from lfm4ads.shard.idspace import Int64s
from lfm4ads.shard.initialise import row_values


@dataclass(frozen=True)
class _Part:
    """This rank's part of a table, a view."""

    weight: Tensor
    first_row: int
    first_column: int


class RowReset:
    """Begins rows of a sharded model anew, on any placement."""

    def __init__(
        self,
        model: DistributedModelParallel,
        *,
        fused: CombinedOptimizer,
        dense: Sequence[torch.optim.Optimizer],
        weights: Mapping[str, str],
        shapes: Mapping[str, tuple[int, int]],
        seed: int,
    ) -> None:
        """``dense``: the optimisers of tables with dense gradients among others; may come later.

        ``weights``: the parameter of each table; ``shapes``: its (rows, dim); ``seed``: of first
        values.
        """
        self._fused, self._dense, self._shapes, self._seed = fused, dense, shapes, seed
        state = model.state_dict()
        self._parts = {table: list(_parts(state[name])) for table, name in weights.items()}
        self._weights = weights
        self._parameters = dict(model.named_parameters())

    @torch.no_grad()
    def __call__(self, table: str, rows: Int64s) -> None:
        """Reset rows (N,) of a table, as far as this rank has them. Not collective."""
        states = self._states(table)
        for number, part in enumerate(self._parts[table]):
            num_rows, columns = part.weight.shape
            own = rows[(rows >= part.first_row) & (rows < part.first_row + num_rows)]
            at = torch.from_numpy(own - part.first_row).to(part.weight.device)
            values = row_values(
                table,
                rows=own,
                columns=range(part.first_column, part.first_column + columns),
                shape=self._shapes[table],
                seed=self._seed,
            )
            part.weight[at] = values.to(part.weight)
            for state in states:
                # A number of steps, where the optimiser has one, is not a row's.
                if state[number].dim() and state[number].shape[0] == num_rows:
                    state[number][at] = 0

    def _states(self, table: str) -> list[list[Tensor]]:
        """Return each state tensor of a table's optimiser, by number of the part."""
        name = self._weights[table]
        states = list(self._fused.state_dict()["state"].get(name, {}).values())
        if name in self._parameters:
            for optimizer in self._dense:
                states += optimizer.state.get(self._parameters[name], {}).values()
        return [
            [shard.tensor for shard in one.local_shards()]
            if isinstance(one, ShardedTensor)
            else [one] * len(self._parts[table])
            for one in states
        ]


def _parts(weight: Tensor) -> Iterator[_Part]:
    if not isinstance(weight, ShardedTensor):
        yield _Part(weight, 0, 0)
        return
    for shard in weight.local_shards():
        yield _Part(shard.tensor, *shard.metadata.shard_offsets)
