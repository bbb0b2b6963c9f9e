"""Simulated data with a known best subset.

The recipe of the BeSS paper (arXiv 1709.06254, its ``gen.data``) has neighbours correlated and
signals so strong that most solvers agree; designs with decaying correlation, mixed signs and a
signal-to-noise ratio separate them.

Dimension key: N rows, P columns, K true columns.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import expit

from lfm4ads.selection.columns import Floats, Ints
from lfm4ads.selection.task import Model

Design = Literal["neighbours", "autoregressive"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A set-up to draw from."""

    model: Model
    rows: int
    columns: int
    true_columns: int
    design: Design = "neighbours"
    rho: float = 0.2
    signal_ratio: float | None = None
    """Variance of the predictor over that of the noise (1 outside linear models); None keeps the
    coefficients of the paper."""
    mixed_signs: bool = False
    positive_ratio: float | None = None
    """Share of positive labels of a logistic model, set by the intercept."""
    time_levels: int | None = None
    """Distinct times of a Cox model; None leaves times continuous."""


@dataclass(frozen=True)
class Drawn:
    """Rows of a set-up and what made them."""

    matrix_NP: Floats
    y_N: Floats
    """Number, label, count or time."""
    event_N: Floats
    """1 everywhere but in censored rows of a Cox model."""
    true_K: Ints
    coefficients_P: Floats
    intercept: float


def draw(recipe: Recipe, *, seed: int) -> Drawn:
    """Draw a replication of a set-up."""
    generator = np.random.default_rng(seed)
    matrix_NP = _design(recipe, generator)
    true_K = np.sort(generator.choice(recipe.columns, recipe.true_columns, replace=False))
    coefficients_P = np.zeros(recipe.columns)
    coefficients_P[true_K] = _coefficients(recipe, generator)
    predictor_N = matrix_NP @ coefficients_P
    if recipe.signal_ratio is not None:
        factor = np.sqrt(recipe.signal_ratio) / max(float(predictor_N.std()), 1e-12)
        coefficients_P *= factor
        predictor_N *= factor
    intercept = 0.0
    if recipe.positive_ratio is not None:
        intercept = _balance(predictor_N, recipe.positive_ratio)
    y_N, event_N = _labels(recipe, generator, predictor_N + intercept)
    return Drawn(matrix_NP, y_N, event_N, true_K, coefficients_P, intercept)


def draw_again(recipe: Recipe, drawn: Drawn, *, seed: int) -> Drawn:
    """Draw other rows with the coefficients of an earlier replication, to test on."""
    generator = np.random.default_rng(seed)
    matrix_NP = _design(recipe, generator)
    predictor_N = matrix_NP @ drawn.coefficients_P + drawn.intercept
    y_N, event_N = _labels(recipe, generator, predictor_N)
    return replace(drawn, matrix_NP=matrix_NP, y_N=y_N, event_N=event_N)


def _design(recipe: Recipe, generator: np.random.Generator) -> Floats:
    base_NP = generator.normal(size=(recipe.rows, recipe.columns))
    if recipe.design == "autoregressive":
        fresh = np.sqrt(1 - recipe.rho**2)
        for column in range(1, recipe.columns):
            base_NP[:, column] = recipe.rho * base_NP[:, column - 1] + fresh * base_NP[:, column]
        return base_NP
    base_NP -= base_NP.mean(0)
    base_NP *= np.sqrt(recipe.rows) / np.linalg.norm(base_NP, axis=0)
    matrix_NP = base_NP.copy()
    matrix_NP[:, 1:-1] += recipe.rho * (base_NP[:, :-2] + base_NP[:, 2:])
    return matrix_NP


def _coefficients(recipe: Recipe, generator: np.random.Generator) -> Floats:
    unit = 5 * np.sqrt(2 * np.log(recipe.columns) / recipe.rows)
    low, high = (1, 100) if recipe.model == "linear" else (2, 10)
    values_K = generator.uniform(low * unit, high * unit, recipe.true_columns)
    if recipe.mixed_signs:
        values_K *= generator.choice([-1.0, 1.0], recipe.true_columns)
    return values_K


def _balance(predictor_N: Floats, positive_ratio: float) -> float:
    """Return the intercept that gives a mean probability, by bisection."""
    low, high = -60.0, 60.0
    for _ in range(80):
        middle = (low + high) / 2
        if expit(predictor_N + middle).mean() < positive_ratio:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _labels(
    recipe: Recipe, generator: np.random.Generator, predictor_N: Floats
) -> tuple[Floats, Floats]:
    every_N = np.ones(len(predictor_N))
    match recipe.model:
        case "linear":
            return predictor_N + generator.normal(size=len(predictor_N)), every_N
        case "logistic":
            labels_N = generator.random(len(predictor_N)) < expit(predictor_N)
            return labels_N.astype(np.float64), every_N
        case "poisson":
            # Rates over e^5 come from a few rows and hold no more than they do at e^5.
            return generator.poisson(np.exp(np.minimum(predictor_N, 5.0))).astype(float), every_N
        case "cox":
            return _times(recipe, generator, predictor_N)


def _times(
    recipe: Recipe, generator: np.random.Generator, predictor_N: Floats
) -> tuple[Floats, Floats]:
    exponent = 0.1 if recipe.signal_ratio is None else 1.0
    time_N = (-np.log(generator.random(len(predictor_N))) / np.exp(predictor_N)) ** exponent
    censored_N = generator.uniform(0, 10.0, len(predictor_N))
    event_N = (time_N <= censored_N).astype(np.float64)
    seen_N = np.minimum(time_N, censored_N)
    if recipe.time_levels is not None:
        edges = np.quantile(seen_N, np.linspace(0, 1, recipe.time_levels + 1)[1:-1])
        seen_N = np.searchsorted(edges, seen_N).astype(np.float64)
    return seen_N, event_N
