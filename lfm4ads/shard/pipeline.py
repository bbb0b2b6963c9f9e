"""The next batch's ids travel while a step is under way: TorchRec's pipeline, our own step."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchrec.distributed import TrainPipelineSparseDist
from torchrec.distributed.types import ShardedModule
from torchrec.streamable import Pipelineable

from lfm4ads.data.batch import Batch
from lfm4ads.shard.sharded import Sharded

Pipelineable.register(Batch)
_DEPTH = 3
"""Batches under way: in a step, with ids on their way, and on the way to the device."""


class Lookups(nn.Module):
    """What the pipeline traces in the model's place: the sharded collections alone, as they are.

    It replaces their ``forward`` by one that takes the ids that have arrived, also where the model
    calls them. The model cannot be traced: it routes rows by their values.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.collections = nn.ModuleList(
            module for module in model.modules() if isinstance(module, ShardedModule)
        )

    def forward(self, batch: Batch) -> list[Any]:
        """Look up a batch in every collection."""
        return [one(batch.sparse) for one in self.collections]


@dataclass(frozen=True)
class _Step:
    """The two calls by which the pipeline knows an optimiser."""

    sharded: Sharded

    def zero_grad(self) -> None:
        self.sharded.zero_grad()

    def step(self) -> None:
        self.sharded.step_dense()


class Pipeline:
    """Training steps, a batch at a time; the same numbers as ``Sharded.step``, in the same order.

    Every collective starts in the same place on all ranks, as long as all ``push`` and ``step``
    alike.
    """

    def __init__(self, sharded: Sharded, *, loss: Callable[[Batch], Tensor]) -> None:
        """``loss`` of a batch on the device is what is backpropagated; its model is sharded."""
        lookups = Lookups(sharded.model.module)
        self._loss = loss
        self._queue: deque[Batch] = deque()
        self._waiting: deque[Batch] = deque()
        self._source = iter(lambda: self._queue.popleft() if self._queue else None, None)
        self._ids: object = None
        self._hooks = [one.register_forward_pre_hook(self._check) for one in lookups.collections]
        self._inner = TrainPipelineSparseDist(
            lookups,
            cast(torch.optim.Optimizer, _Step(sharded)),
            sharded.ranks.device,
            custom_model_fwd=cast(Any, self._forward),
        )

    @property
    def is_full(self) -> bool:
        """Whether the next step can run with another batch's ids under way."""
        return len(self._waiting) >= _DEPTH

    @property
    def waiting(self) -> list[Batch]:
        """Batches that were pushed and not yet learned from, in their order."""
        return list(self._waiting)

    def push(self, batch: Batch) -> None:
        """Take a batch, on the host."""
        self._queue.append(batch)
        self._waiting.append(batch)

    def step(self) -> Batch:
        """Learn from the oldest batch and return it; until the last ones, only when full."""
        self._inner.progress(self._source)
        return self._waiting.popleft()

    def close(self, *, settle: bool) -> None:
        """Give the model back; with ``settle``, first let arrive what is under way on all ranks."""
        if settle:
            for context in self._inner.contexts:
                for request in context.input_dist_tensors_requests.values():
                    request.wait()
        for hook in self._hooks:
            hook.remove()
        self._inner.detach()

    def _forward(self, batch: Batch | None) -> tuple[Tensor, None]:
        assert batch is not None
        self._ids = batch.sparse
        return self._loss(batch), None

    def _check(self, _collection: nn.Module, ids: tuple[object, ...]) -> None:
        """The ids given are ignored for those that travelled, so they had better be the same."""
        assert ids[0] is self._ids
