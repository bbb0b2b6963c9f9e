"""The rows a subset is chosen on: labels, weights and a matrix, for one of four models.

Dimension key: N rows, P columns, K chosen columns.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from lfm4ads.core.errors import UserError
from lfm4ads.selection.columns import Columns, Floats, Ints, Scale
from lfm4ads.selection.cox import CoxProblem
from lfm4ads.selection.families import row_terms
from lfm4ads.selection.glm import GlmData, GlmProblem
from lfm4ads.selection.linear import build_linear
from lfm4ads.selection.problem import RIDGE_FLOOR, Fit, Problem
from lfm4ads.selection.risk import Ties

Model = Literal["linear", "logistic", "poisson", "cox"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Rows of one model; rows of weight zero are as if they were not there."""

    model: Model
    matrix: Any
    """Candidate columns (N, P), dense or sparse."""
    y_N: Floats
    """Label: a number, 0 or 1, a count, or the time of a Cox model."""
    weight_N: Floats
    event_N: Floats | None = None
    """1 where the time of a Cox model is that of an event, 0 where it was censored."""
    offset_N: Floats | None = None
    """Added to the linear predictor; only for logistic and Poisson models."""
    ties: Ties = "efron"
    intercept: bool = True
    ridge: float = 0.0
    """Per unit of weight, on standardised columns."""


@dataclass(frozen=True)
class Opened:
    """A task made ready for the search."""

    columns: Columns
    problem: Problem


@dataclass(frozen=True)
class Coefficients:
    """A fit in the units of the raw columns."""

    columns_K: Ints
    values_K: Floats
    intercept: float


def open_task(task: Task, *, floor: float = RIDGE_FLOOR) -> Opened:
    """Return the standardised columns and the problem of a task."""
    check_labels(task)
    centred = task.intercept or task.model == "cox"
    if task.model == "cox":
        assert task.event_N is not None  # every Cox task has events; the faces see to it
        order = np.argsort(task.y_N, kind="stable")
        weight_N = task.weight_N[order]
        columns = Columns(task.matrix[order], weight_N=weight_N, centred=True)
        problem = CoxProblem(
            columns,
            time_N=task.y_N[order],
            event_N=task.event_N[order],
            weight_N=weight_N,
            ties=task.ties,
            ridge=task.ridge,
            floor=floor,
        )
        return Opened(columns, problem)
    columns = Columns(task.matrix, weight_N=task.weight_N, centred=centred)
    if task.model == "linear":
        return Opened(
            columns,
            build_linear(
                columns,
                task.y_N,
                weight_N=task.weight_N,
                centred=centred,
                ridge=task.ridge,
                floor=floor,
            ),
        )
    offset_N = np.zeros(len(task.y_N)) if task.offset_N is None else task.offset_N
    data = GlmData(task.y_N, task.weight_N, offset_N)
    glm = GlmProblem(
        columns, data, family=task.model, centred=centred, ridge=task.ridge, floor=floor
    )
    return Opened(columns, glm)


def check_labels(task: Task) -> None:
    """Refuse labels from which nothing can be learnt."""
    total = float(task.weight_N.sum())
    if not total > 0:
        raise UserError("sample_weight is zero everywhere; give some rows a positive weight")
    if task.model == "cox":
        assert task.event_N is not None
        if not (task.weight_N * task.event_N).sum() > 0:
            raise UserError("all rows are censored; a Cox model needs at least one event")
    elif task.model == "poisson":
        _check_counts(task)
    elif task.model == "logistic":
        positives = float(task.weight_N @ task.y_N)
        if not 0 < positives < total:
            raise UserError(
                "the labels hold one class only; a classifier needs rows of two classes"
            )


def _check_counts(task: Task) -> None:
    if task.y_N.min() < 0:
        raise UserError(f"a count is {task.y_N.min():g}; Poisson counts are zero or more")
    if not task.weight_N @ task.y_N > 0:
        raise UserError("all counts are zero; a Poisson model needs a positive one")


def subset_rows(task: Task, rows: Ints) -> Task:
    """Return a task of some rows."""
    return replace(
        task,
        matrix=task.matrix[rows],
        y_N=task.y_N[rows],
        weight_N=task.weight_N[rows],
        event_N=None if task.event_N is None else task.event_N[rows],
        offset_N=None if task.offset_N is None else task.offset_N[rows],
    )


def to_raw(fit: Fit, scale: Scale) -> Coefficients:
    """Return a fit in the units of the raw columns, in order of the columns."""
    order = np.argsort(fit.columns_K)
    columns_K = fit.columns_K[order]
    values_K = fit.coefficients_K[order] / scale.scale_P[columns_K]
    moved = float(values_K @ scale.mean_P[columns_K])
    return Coefficients(columns_K, values_K, fit.intercept - moved)


def refit(task: Task, columns_K: Ints, *, near: Coefficients | None = None) -> Coefficients:
    """Fit the chosen columns alone, to the last digit: with no ridge but the one asked for.

    Newton's method starts from the coefficients ``near`` of the same columns, if there are any.
    """
    if not len(columns_K):
        opened = open_task(replace(task, matrix=np.zeros((len(task.y_N), 1))))
        fit = opened.problem.fit(np.zeros(0, np.int64), start=None)
        return Coefficients(columns_K, np.zeros(0), fit.intercept)
    opened = open_task(replace(task, matrix=task.matrix[:, columns_K]), floor=0.0)
    start = None if near is None else _to_standard(near, opened.columns.raw_scale)
    fit = opened.problem.fit(np.arange(len(columns_K)), start=start)
    raw = to_raw(fit, opened.columns.raw_scale)
    return Coefficients(columns_K, raw.values_K, raw.intercept)


def _to_standard(near: Coefficients, scale: Scale) -> Fit:
    intercept = near.intercept + float(near.values_K @ scale.mean_P)
    every = np.arange(len(near.columns_K))
    return Fit(every, near.values_K * scale.scale_P, intercept, np.inf, np.inf)


def predictor(task: Task, coefficients: Coefficients) -> Floats:
    """Return the linear predictor of the rows (N,), offset included."""
    out_N = np.full(len(task.y_N), coefficients.intercept if task.model != "cox" else 0.0)
    if len(coefficients.columns_K):
        out_N += task.matrix[:, coefficients.columns_K] @ coefficients.values_K
    return out_N if task.offset_N is None else out_N + task.offset_N


def loss_of(task: Task, predictor_N: Floats) -> float:
    """Return the loss of rows at a linear predictor; of linear models half the squared error."""
    if task.model == "linear":
        return 0.5 * float(task.weight_N @ (task.y_N - predictor_N) ** 2)
    if task.model == "cox":
        one_column = replace(task, matrix=predictor_N[:, None], ridge=0.0)
        opened = open_task(one_column, floor=0.0)
        scale = opened.columns.scale
        coefficient = np.array([scale.scale_P[0]])
        assert isinstance(opened.problem, CoxProblem)
        return opened.problem.loss_at(np.zeros(1, np.int64), coefficient)
    return row_terms(task.model, predictor_N=predictor_N, y_N=task.y_N, weight_N=task.weight_N).loss
