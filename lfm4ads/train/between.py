"""How much each task counts in the joint loss, decided anew at every step.

Uncertainty weighting, GradNorm and PCGrad alike end in one backward of ``sum_t w_t S_t``, where S_t
is the loss of task t summed over the global batch. The weights are known before it: the first wants
the losses alone, the others the inner products of the tasks' gradients. Those are taken where the
tables' rows come out, as MGDA-UB takes them at the shared activations (arXiv 1810.04650): it costs
one backward a task through the dense part, and none through the tables, which learn in theirs.

Dimension key: T tasks, N those with labels in a step, K numbers of one looked-up tensor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lfm4ads.core.errors import UserError
from lfm4ads.core.log import MetricsLog
from lfm4ads.core.ranks import Ranks
from lfm4ads.train.tradeoffs import (
    Floats,
    draw_orders,
    gradnorm_slope,
    pcgrad_weights,
    uncertainty_slope,
)

Tasks = npt.NDArray[np.intp]
"""Indices (N,) of tasks."""
_ALPHA = 1.5
_LEAST_WEIGHT = 1e-4
"""GradNorm's weights stay above it: a step of Adam could carry a small one through zero, and a loss
of negative weight would be maximised."""


@dataclass(frozen=True, kw_only=True)
class BetweenConfig:
    """How the joint loss weighs tasks against each other, on top of the static weights."""

    kind: Literal["none", "uncertainty", "gradnorm", "pcgrad"] = "none"
    """None: losses are added as they are."""
    rate: float = 0.025
    """Learning rate of Adam, for uncertainty's log variances or gradnorm's weights."""
    alpha: float = _ALPHA
    """Of gradnorm: the larger, the more a task is pulled that learns slower than the others; with 0
    all tasks' gradients are brought to one size."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < float("inf"):
            raise ValueError(f"loss.between.rate must be positive and finite, got {self.rate}")
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"loss.between.alpha must be at least 0 and finite, got {self.alpha}")
        if self.alpha != _ALPHA and self.kind != "gradnorm":
            raise ValueError(
                f"loss.between.alpha is read by kind gradnorm alone, and kind is {self.kind};"
                " set loss.between.kind=gradnorm or remove alpha"
            )

    @property
    def compares(self) -> bool:
        """Whether it wants the tasks' gradients."""
        return self.kind in ("gradnorm", "pcgrad")


@dataclass(frozen=True, kw_only=True)
class TaskLosses:
    """The losses of this rank's rows by task."""

    losses_T: Tensor
    """Sums over rows; their sum over ranks is that of the global batch."""
    labels_T: Tensor
    """Labelled rows, a row of weight w counted as w."""


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What all ranks know of a global batch."""

    loss_T: Floats
    label_T: Floats
    gram_TT: Floats
    """Inner products of the tasks' gradients; zeros where they are not wanted."""

    @property
    def tasks(self) -> Tasks:
        """Tasks with labels; none in a batch whose loss is not finite, at which the loop stops."""
        parts = (self.loss_T, self.label_T, self.gram_TT)
        finite = all(np.isfinite(part).all() for part in parts)
        return np.flatnonzero((self.label_T > 0) & finite)


@dataclass
class Memory:
    """What outlives a step: a few numbers, the same on all ranks."""

    value_T: Floats
    """Log variances s_t, or GradNorm's weights."""
    first_T: Floats
    second_T: Floats
    """Adam's moments of ``value_T``."""
    moves_T: Floats
    """Adam's steps: a task without a label in a global batch makes none."""
    initial_T: Floats
    """Mean loss of the first batch with a label; -1 before it."""
    weight_T: Floats
    """Sum of the weights used since the day began, over ``steps_T`` steps with a label."""
    steps_T: Floats
    pairs_T: Floats
    """Pairs with another task that had labels, since the day began."""
    conflicts_T: Floats
    """Those of them whose gradients oppose each other."""


class Between:
    """The weights of a run's tasks; those of a step are used before its losses move them."""

    def __init__(self, config: BetweenConfig, *, tasks: Sequence[str], ranks: Ranks) -> None:
        """Begin with equal weights.

        Raises:
            UserError: there is one task alone; on every rank.
        """
        if config.kind != "none" and len(tasks) < 2:
            raise UserError(
                f"loss.between.kind is {config.kind}, but the only task is {', '.join(tasks)};"
                " set it to none",
                everywhere=True,
            )
        self._config = config
        self._tasks = tasks
        self._ranks = ranks
        self._memory = Memory(*(np.zeros(len(tasks)) for _ in fields(Memory)))
        self._memory.initial_T -= 1
        if config.kind == "gradnorm":
            self._memory.value_T += 1

    @property
    def weighs(self) -> bool:
        """Whether losses are to be joined here, and not simply added."""
        return self._config.kind != "none"

    def join(self, parts: TaskLosses, *, looked: Callable[[], list[Tensor]], step: int) -> Tensor:
        """Return the joint loss of this rank's rows. Collective.

        Its gradient is that of the weighted sum. Its value is the plain sum, which can be compared
        with that of other days and of other ways of weighing.

        Args:
            parts: Of this rank.
            looked: Gives what the tables returned for the batch.
            step: Of the run, the same on all ranks and after a restart: it draws PCGrad's orders.

        Raises:
            UserError: gradients are to be compared and no table is read; on every rank.
        """
        weight_T = self._weights(self._measure(parts, looked=looked), step=step)
        losses_T = parts.losses_T
        weighted = (losses_T * torch.as_tensor(weight_T).to(losses_T)).sum()
        return losses_T.detach().sum() + (weighted - weighted.detach())

    def state(self) -> dict[str, list[float]] | None:
        """Return plain values for a checkpoint's meta, exact to the last bit."""
        if not self.weighs:
            return None
        return {part.name: getattr(self._memory, part.name).tolist() for part in fields(Memory)}

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Go on from what ``state`` returned; None is that of a run which has not begun."""
        if state is not None:
            self._memory = Memory(**{name: np.array(value) for name, value in state.items()})

    def log_day(self, metrics: MetricsLog, *, step: int) -> None:
        """Write the mean weights used since it was last called, and the share of conflicts."""
        memory = self._memory
        for task, total, steps in zip(self._tasks, memory.weight_T, memory.steps_T, strict=True):
            if steps:
                name = f"weight/{task}"
                metrics.write(name, total / steps, step=step, split="train", unit="ratio")
        pairs, conflicts = memory.pairs_T.sum(), memory.conflicts_T.sum()
        if pairs:
            name = "task_conflicts"
            metrics.write(name, conflicts / pairs, step=step, split="train", unit="ratio")
        for sums_T in (memory.weight_T, memory.steps_T, memory.pairs_T, memory.conflicts_T):
            sums_T[:] = 0

    def _measure(self, parts: TaskLosses, *, looked: Callable[[], list[Tensor]]) -> _Measured:
        """Return what the ranks' parts add up to: one small all-reduce."""
        tasks = len(self._tasks)
        gram_TT = torch.zeros(tasks, tasks, dtype=torch.float64, device=parts.losses_T.device)
        if self._config.compares:
            gram_TT = task_gram(parts.losses_T, looked=looked())
        mine = [parts.losses_T.detach(), parts.labels_T.detach(), gram_TT.flatten()]
        sums = self._ranks.sum(torch.cat([part.double() for part in mine]).cpu().numpy())
        loss_T, label_T, gram = np.split(sums, [tasks, 2 * tasks])
        return _Measured(loss_T=loss_T, label_T=label_T, gram_TT=gram.reshape(tasks, tasks))

    def _weights(self, found: _Measured, *, step: int) -> Floats:
        """Return this step's weights, and let its losses move those of the next."""
        memory, tasks = self._memory, found.tasks
        mean_N, gram_NN = (
            found.loss_T[tasks] / found.label_T[tasks],
            found.gram_TT[np.ix_(tasks, tasks)],
        )
        match self._config.kind:
            case "uncertainty":
                weight_T = np.exp(-memory.value_T)
                self._move(tasks, uncertainty_slope(memory.value_T[tasks], loss_N=mean_N))
            case "gradnorm":
                weight_T = memory.value_T.copy()
                slope_N = gradnorm_slope(
                    weight_T[tasks],
                    norm_N=np.sqrt(np.diag(gram_NN)),
                    rate_N=self._rates(tasks, mean_N),
                    alpha=self._config.alpha,
                )
                self._move(tasks, slope_N)
                self._renormalise(tasks, total=weight_T[tasks].sum())
            case "pcgrad":
                weight_T = np.ones(len(self._tasks))
                weight_T[tasks] = pcgrad_weights(gram_NN, orders=draw_orders(len(tasks), step=step))
            case "none":
                raise AssertionError("losses are simply added")
        memory.weight_T[tasks] += weight_T[tasks]
        memory.steps_T[tasks] += 1
        memory.pairs_T[tasks] += (len(tasks) - 1) * self._config.compares
        memory.conflicts_T[tasks] += (gram_NN < 0).sum(0)
        return weight_T

    def _rates(self, tasks: Tasks, mean_N: Floats) -> Floats:
        """Return the losses relative to the first ones, which are taken here."""
        initial_N = self._memory.initial_T[tasks]
        initial_N = np.where(initial_N < 0, mean_N, initial_N)
        self._memory.initial_T[tasks] = initial_N
        return np.divide(mean_N, initial_N, out=np.ones_like(mean_N), where=initial_N > 0)

    def _move(self, tasks: Tasks, slope_N: Floats) -> None:
        """Make a step of Adam (arXiv 1412.6980) with the values of some tasks."""
        memory = self._memory
        memory.moves_T[tasks] += 1
        memory.first_T[tasks] = 0.9 * memory.first_T[tasks] + 0.1 * slope_N
        memory.second_T[tasks] = 0.999 * memory.second_T[tasks] + 0.001 * slope_N**2
        moves_N = memory.moves_T[tasks]
        first_N = memory.first_T[tasks] / (1 - 0.9**moves_N)
        second_N = memory.second_T[tasks] / (1 - 0.999**moves_N)
        memory.value_T[tasks] -= self._config.rate * first_N / (np.sqrt(second_N) + 1e-8)

    def _renormalise(self, tasks: Tasks, *, total: float) -> None:
        """Bring the sum of some tasks' weights back to what it was; that of all stays T."""
        if len(tasks):
            moved_N = np.maximum(self._memory.value_T[tasks], _LEAST_WEIGHT)
            self._memory.value_T[tasks] = moved_N * (total / moved_N.sum())


def task_gram(losses_T: Tensor, *, looked: Sequence[Tensor]) -> Tensor:
    """Return the inner products (T, T), in float64, of the gradients of losses at looked-up rows.

    The graph stays for the backward of the step. Gradients end at ``looked``: none reaches a
    parameter or a table, so neither DDP nor a fused optimiser is set off. Each rank has its rows'
    part of every product; over ranks they add up to those of the global batch.

    Raises:
        UserError: nothing was looked up; on every rank.
    """
    if not looked:
        raise UserError(
            "loss.between.kind compares gradients at the rows of tables, but the model reads none;"
            " set it to none or uncertainty",
            everywhere=True,
        )
    of_tasks = [
        torch.autograd.grad(loss, looked, retain_graph=True, materialize_grads=True)
        for loss in losses_T.unbind()
    ]
    gram_TT = torch.zeros(len(losses_T), len(losses_T), dtype=torch.float64, device=losses_T.device)
    for of_one in zip(*of_tasks, strict=True):
        gradient_TK = torch.stack([gradient.flatten() for gradient in of_one])
        gram_TT += gradient_TK @ gradient_TK.T
    return gram_TT
