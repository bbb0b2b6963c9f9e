"""What the search asks of a model: fit a set of columns, and say what every column would change.

Losses are sums over rows of weighted negative log-likelihoods (half the squared error of linear
models), so sacrifices add up and do not depend on how rows are spread over ranks.

Dimension key: P candidate columns, K columns of a fit, M columns asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from lfm4ads.selection.columns import Floats, Ints

RIDGE_FLOOR = 1e-9
"""Always-on ridge per unit of weight: separable data stay finite, others move by less than 1e-7."""

SMOOTHING = 1e-4
"""Ridge per unit of weight under which sets of curved losses are looked for first."""

PRIOR_DEVIATION = 10.0
"""What criteria hold possible of coefficients: log odds or hazards per deviation of a column.

With p 2000 and n 500 some useless column next to the true ones leaves no row in doubt, at
coefficients of hundreds; deviance falls by more than any criterion asks. With any deviation from 5
to 17 none of 40 draws of the two such recipes keeps one.
"""


@dataclass(frozen=True)
class Fit:
    """Minimum of the loss over the coefficients of some standardised columns."""

    columns_K: Ints
    coefficients_K: Floats
    intercept: float
    loss: float
    """Without the ridge: what criteria are made of."""
    objective: float
    """With the ridge: what fits are compared by."""
    separated: bool = False
    """Whether the loss has no finite minimum, so that only the ridge holds the coefficients."""
    state: Any = field(default=None, repr=False)
    """What the problem keeps to answer questions at this fit."""


@dataclass(frozen=True)
class Guess:
    """The minimum of the second-order model after an exchange of columns."""

    fit: Fit
    """With the coefficients that are expected; what it was guessed from is its state."""
    factor_KK: Floats
    """Cholesky factor of the model's Hessian on its columns."""


@dataclass(frozen=True)
class Slopes:
    """Gradient and curvature of the objective along columns, one at a time (M,)."""

    gradient_M: Floats
    curvature_M: Floats


class Problem(Protocol):
    """A loss over standardised columns; what the ranks hold is summed behind these calls."""

    num_columns: int
    num_rows: float
    """Rows that criteria count: the sum of weights, or the events of a Cox model."""
    is_quadratic: bool
    """Whether the second-order model is the loss itself, so that predicted swaps are exact."""
    wide_is_cheap: bool
    """Whether slopes of all columns cost little more than those of a few."""

    def fit(self, columns_K: Ints, *, start: Fit | None, target: float = np.inf) -> Fit:
        """Minimise over the coefficients of these columns, from those of ``start``.

        A fit that will not get below ``target`` may be left unfinished above it.
        """
        ...

    def slopes(self, fit: Fit, *, columns_M: Ints | None) -> Slopes:
        """Return gradient and curvature at a fit, of all columns by default."""
        ...

    def hessian(self, fit: Fit, *, columns_M: Ints) -> Floats:
        """Return the second derivatives (M, M) at a fit, the intercept profiled out."""
        ...

    def blocks(self, fit: Fit, *, columns_GM: Ints) -> Floats:
        """Return the Hessian blocks (G, M, M) of groups of equal width."""
        ...

    def across(self, fit: Fit) -> Floats | None:
        """Return second derivatives of all columns with those of a fit (P, K).

        None where they cost more than a pass over the rows.
        """
        ...

    def is_steep(self, fit: Fit) -> bool:
        """Return whether the fit is so sure of most rows that its curvature says little."""
        ...

    def ridged(self, weight: float) -> "Problem":
        """Return the problem with a ridge of at least this weight, itself where it is quadratic.

        Where rows are all but certain the curvature of a loss says little of exchanges, and a
        search that starts there ends in a poor set; nor does its infimum say much of the columns.
        """
        ...

    def least(self, guesses: Sequence[Guess]) -> Floats:
        """Return what the objective at best falls to from each guess; -inf is "fit it and see"."""
        ...

    def deviance(self, loss: float) -> float:
        """Return the likelihood part of information criteria for a loss."""
        ...

    def noise(self, loss: float) -> float:
        """Return what a useless column takes off twice the loss on average."""
        ...


def criterion_deviance(problem: Problem, fit: Fit) -> float:
    """Return the deviance that criteria are made of.

    It is that of the fit where its coefficients together are within ``PRIOR_DEVIATION``. Beyond,
    where the likelihood may have no maximum at all, it is the least sum of deviance and penalty
    under a normal prior: the posterior mode, which is what BIC's approximation is taken at.
    """
    square = float(fit.coefficients_K @ fit.coefficients_K)
    weight = PRIOR_DEVIATION**-2
    if problem.is_quadratic or weight * square <= 1.0:
        return problem.deviance(fit.loss)
    start = None if fit.separated else fit
    mode = problem.ridged(weight).fit(fit.columns_K, start=start)
    penalty = weight * float(mode.coefficients_K @ mode.coefficients_K)
    return problem.deviance(mode.loss) + penalty
