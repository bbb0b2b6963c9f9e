"""Optimisers: sparse ones fused into the backward of the tables, dense ones stepped once a step."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import Tensor

from lfm4ads.core.errors import UserError
from lfm4ads.shard.schedule import ScheduleConfig

SparseKind = Literal["rowwise_adagrad", "adagrad", "sgd", "adam"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Dense parameters and sparse tables are stepped by different optimisers."""

    dense_lr: float = 1e-3
    weight_decay: float = 0.01
    """Decoupled weight decay of the dense parameters (AdamW)."""
    sparse_lr: float = 0.05
    sparse_kind: SparseKind = "rowwise_adagrad"
    """adam needs CUDA. Tables have no weight decay: FBGEMM ignores it in silence for some."""
    clip_norm: float = 10.0
    """Largest norm of the dense gradient; 0 does not clip."""
    sparse_clip: float = 0.0
    """Largest absolute value of the gradient of one lookup (a row's bag, or id by id), before it is
    summed over rows; 0 does not clip. Tables placed data_parallel cannot have it."""
    dense_schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    sparse_schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        if self.dense_lr <= 0 or self.sparse_lr <= 0:
            raise ValueError(
                "optim.dense_lr and optim.sparse_lr must be positive,"
                f" got {self.dense_lr} and {self.sparse_lr}"
            )
        if self.weight_decay < 0 or self.clip_norm < 0 or self.sparse_clip < 0:
            raise ValueError(
                "optim.weight_decay, optim.clip_norm and optim.sparse_clip must not be negative"
            )


def check_device(config: OptimConfig, *, device: torch.device) -> None:
    """Refuse an optimiser that has no kernel here.

    Raises:
        UserError: adam on CPU, which FBGEMM would refuse in the middle of building.
    """
    if config.sparse_kind == "adam" and device.type == "cpu":
        raise UserError(
            "shard.optim.sparse_kind adam has no kernel on CPU; use rowwise_adagrad, or train on"
            " CUDA",
            everywhere=True,
        )


def fused_params(config: OptimConfig) -> dict[str, Any]:
    """Return FBGEMM's words for the sparse optimiser."""
    kinds = {
        "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        "adagrad": EmbOptimType.EXACT_ADAGRAD,
        "sgd": EmbOptimType.EXACT_SGD,
        "adam": EmbOptimType.ADAM,
    }
    words: dict[str, Any] = {
        "optimizer": kinds[config.sparse_kind],
        "learning_rate": config.sparse_lr,
        "eps": 1e-8,
    }
    if config.sparse_clip:
        words |= {"gradient_clipping": True, "max_gradient": config.sparse_clip}
    return words


class TableOptimizer(torch.optim.Optimizer):
    """The fused optimisers' rules for tables with dense gradients.

    A table placed data_parallel has no fused optimiser: without this it would silently never move.
    Adam is not here: FBGEMM's moves the rows that were looked up, which a dense gradient forgets.
    The rules are FBGEMM's: row-wise AdaGrad adds a row's mean squared gradient to one accumulator
    per row.
    """

    def __init__(self, parameters: Iterable[Tensor], *, config: OptimConfig) -> None:
        super().__init__(list(parameters), {"lr": config.sparse_lr})
        self._kind = config.sparse_kind

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002  # pyright: ignore[reportIncompatibleMethodOverride] - torch's, less its closures
        """Apply one update to every table that has a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._update(table, gradient=table.grad, lr=group["lr"])

    def _update(self, table: Tensor, *, gradient: Tensor, lr: float) -> None:
        if self._kind == "sgd":
            table.sub_(gradient, alpha=lr)
            return
        squared = gradient.square()
        if self._kind == "rowwise_adagrad":
            squared = squared.mean(dim=1, keepdim=True)
        state = self.state[table]
        if "sum" not in state:
            state["sum"] = torch.zeros_like(squared)
        state["sum"].add_(squared)
        table.sub_(lr * gradient / (state["sum"].sqrt() + 1e-8))
