"""Held-out loss of every size: each fold walks its own warm path.

The held-out loss of a Cox model is that of all rows less that of the training rows, since a
partial likelihood of a few rows alone is of other risk sets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lfm4ads.core.errors import UserError
from lfm4ads.selection.columns import Ints
from lfm4ads.selection.path import Path
from lfm4ads.selection.solver import SolverOptions
from lfm4ads.selection.task import Opened, Task, loss_of, open_task, predictor, subset_rows, to_raw
from lfm4ads.selection.units import Units


@dataclass(frozen=True)
class HeldOut:
    """Mean held-out loss a row, and its standard error over folds."""

    mean: float
    error: float


@dataclass(frozen=True)
class _Fold:
    opened: Opened
    path: Path
    train: Task
    test: Task


class CrossValidation:
    """Paths of all folds of a task."""

    def __init__(
        self,
        task: Task,
        units: Units,
        options: SolverOptions,
        *,
        folds: Sequence[tuple[Ints, Ints]],
    ) -> None:
        """Take (training rows, held-out rows) of every fold."""
        self._task = task
        self._folds: list[_Fold] = []
        self._values: dict[int, HeldOut] = {}
        for number, (train_rows, test_rows) in enumerate(folds):
            train = subset_rows(task, train_rows)
            try:
                opened = open_task(train)
            except UserError as error:
                raise UserError(f"fold {number}: {error}; use fewer folds") from None
            path = Path(opened.problem, units, options)
            self._folds.append(_Fold(opened, path, train, subset_rows(task, test_rows)))

    def at(self, size: int) -> HeldOut:
        """Return the held-out loss of a size."""
        if size not in self._values:
            losses = np.array([self._loss(fold, size) for fold in self._folds])
            error = float(losses.std(ddof=1) / np.sqrt(len(losses)))
            self._values[size] = HeldOut(float(losses.mean()), error)
        return self._values[size]

    def _loss(self, fold: _Fold, size: int) -> float:
        raw = to_raw(fold.path.at(size).fit, fold.opened.columns.raw_scale)
        if self._task.model == "cox":
            whole = loss_of(self._task, predictor(self._task, raw))
            loss = whole - loss_of(fold.train, predictor(fold.train, raw))
        else:
            loss = loss_of(fold.test, predictor(fold.test, raw))
        return loss / max(float(fold.test.weight_N.sum()), 1e-300)


def one_error_size(scores: dict[int, HeldOut]) -> int:
    """Return the smallest size within one standard error of the best."""
    best = min(scores, key=lambda size: scores[size].mean)
    allowed = scores[best].mean + scores[best].error
    return min(size for size, score in scores.items() if score.mean <= allowed)
