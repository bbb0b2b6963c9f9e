"""Logistic and Poisson models of arrays in memory.

Dimension key: N rows, P candidate columns, K columns of a fit (J = K + 1 with the intercept),
M columns asked for, G groups.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from lfm4ads.selection.columns import Columns, Floats, Ints
from lfm4ads.selection.families import Family, RowTerms, link, row_terms, saturated_loss
from lfm4ads.selection.newton import Point, forward, minimise
from lfm4ads.selection.problem import RIDGE_FLOOR, Fit, Guess, Slopes

SEPARATED_LOSS = 1e-3
"""Mean distance to the saturated loss under which a fit counts as perfect."""

PERFECT_LOSS = 1e-5
"""And under which its coefficients are followed no further to infinity."""


@dataclass(frozen=True)
class GlmData:
    """Rows of a generalised linear model."""

    y_N: Floats
    weight_N: Floats
    offset_N: Floats


class GlmProblem:
    """A row loss of standardised columns, an intercept and an offset."""

    is_quadratic = False

    def __init__(
        self,
        columns: Columns,
        data: GlmData,
        *,
        family: Family,
        centred: bool,
        ridge: float = 0.0,
        floor: float = RIDGE_FLOOR,
    ) -> None:
        self._columns = columns
        self._data = data
        self._family: Family = family
        self._centred = centred
        self.num_rows = float(data.weight_N.sum())
        self.num_columns = columns.num_columns
        self.wide_is_cheap = columns.num_columns <= 512
        self.ridge_weight = (ridge + floor) * self.num_rows
        self._saturated = saturated_loss(family, y_N=data.y_N, weight_N=data.weight_N)
        self._perfect = self._saturated + PERFECT_LOSS * self.num_rows
        mean = float(data.weight_N @ data.y_N) / self.num_rows
        self._start = link(family, mean) if centred else 0.0
        self._last: tuple[Fit, float, Slopes] | None = None
        """Slopes along all columns at the fit, and under the ridge, that were asked for last."""

    def fit(self, columns_K: Ints, *, start: Fit | None, target: float = np.inf) -> Fit:
        """Run Newton's method from the coefficients that ``start`` shares."""
        design_NJ = self._design(columns_K)
        start_J = self._starting(columns_K, start)

        def evaluate(at_J: Floats) -> Point:
            terms = self._terms(design_NJ @ at_J)
            ridge_J = np.full(len(at_J), self.ridge_weight)
            ridge_J[len(columns_K) :] = 0.0
            hessian_JJ = design_NJ.T @ (design_NJ * terms.curvature_N[:, None])
            hessian_JJ.flat[:: len(at_J) + 1] += ridge_J
            objective = terms.loss + 0.5 * float(ridge_J @ at_J**2)
            gradient_J = design_NJ.T @ terms.slope_N + ridge_J * at_J
            return Point(at_J, objective, gradient_J, hessian_JJ, terms)

        point = minimise(evaluate, start_J, target=target, perfect=self._perfect)
        coefficients_K = point.at_K[: len(columns_K)]
        intercept = float(point.at_K[-1]) if self._centred else 0.0
        loss = float(point.state.loss)
        separated = loss - self._saturated < SEPARATED_LOSS * self.num_rows or is_flat(
            point.hessian_KK, ridge=self.ridge_weight, num_rows=self.num_rows
        )
        return Fit(
            columns_K, coefficients_K, intercept, loss, point.objective, separated, point.state
        )

    def slopes(self, fit: Fit, *, columns_M: Ints | None) -> Slopes:
        """Return gradient and curvature, the intercept profiled out."""
        last = self._last
        if last is not None and last[0] is fit and last[1] == self.ridge_weight:
            whole = last[2]
            if columns_M is None:
                return whole
            return Slopes(whole.gradient_M[columns_M], whole.curvature_M[columns_M])
        terms: RowTerms = fit.state
        if columns_M is None:
            moments = self._columns.moments(terms.slope_N, terms.curvature_N)
            sums_M2, squares_M = moments.sums_PM, moments.squares_P
        else:
            taken_NM = self._columns.take(columns_M)
            sums_M2 = taken_NM.T @ np.column_stack([terms.slope_N, terms.curvature_N])
            squares_M = terms.curvature_N @ (taken_NM * taken_NM)
        if self._centred:
            squares_M = squares_M - sums_M2[:, 1] ** 2 / max(terms.curvature_N.sum(), 1e-300)
        held_P = np.zeros(self.num_columns)
        held_P[fit.columns_K] = fit.coefficients_K
        held_M = held_P if columns_M is None else held_P[columns_M]
        floor = RIDGE_FLOOR * self.num_rows
        curvature_M = np.maximum(squares_M, floor) + self.ridge_weight
        found = Slopes(sums_M2[:, 0] + self.ridge_weight * held_M, curvature_M)
        if columns_M is None:
            self._last = fit, self.ridge_weight, found
        return found

    def hessian(self, fit: Fit, *, columns_M: Ints) -> Floats:
        """Return the second derivatives (M, M), the intercept profiled out."""
        taken_NM = self._columns.take(columns_M)
        curvature_N = fit.state.curvature_N
        hessian_MM = taken_NM.T @ (taken_NM * curvature_N[:, None])
        if self._centred:
            sum_M = curvature_N @ taken_NM
            hessian_MM -= np.outer(sum_M, sum_M) / max(curvature_N.sum(), 1e-300)
        hessian_MM.flat[:: len(columns_M) + 1] += self.ridge_weight
        return hessian_MM

    def blocks(self, fit: Fit, *, columns_GM: Ints) -> Floats:
        """Return the Hessian blocks of groups."""
        return np.stack([self.hessian(fit, columns_M=columns_M) for columns_M in columns_GM])

    def across(self, fit: Fit) -> Floats | None:
        """Return second derivatives of all columns with those of a fit (P, K)."""
        curvature_N = fit.state.curvature_N
        weighed_NJ = self._columns.take(fit.columns_K) * curvature_N[:, None]
        sums_PJ = self._columns.sums(np.column_stack([weighed_NJ, curvature_N]))
        across_PK = sums_PJ[:, :-1]
        if self._centred:
            total = max(float(curvature_N.sum()), 1e-300)
            across_PK -= sums_PJ[:, -1:] * (weighed_NJ.sum(0) / total)
        across_PK[fit.columns_K, np.arange(len(fit.columns_K))] += self.ridge_weight
        return across_PK

    def deviance(self, loss: float) -> float:
        """Return twice the distance to the saturated loss."""
        return 2 * (loss - self._saturated)

    def noise(self, loss: float) -> float:
        """Return 1: the likelihood knows its own scale."""
        del loss
        return 1.0

    def is_steep(self, fit: Fit) -> bool:
        """Return whether the fit is so sure of most rows that its curvature says little."""
        return fit.loss - self._saturated < 0.1 * self.num_rows

    def least(self, guesses: Sequence[Guess]) -> Floats:
        """Return the objective at every guess less twice what a Newton step seems to gain.

        All of them are measured at once, and nothing but the gradient is: the Hessian is that of
        the fit they were guessed from.
        """
        if not guesses:
            return np.zeros(0)
        columns_M = np.unique(np.concatenate([one.fit.columns_K for one in guesses]))
        taken_NM = self._columns.take(columns_M)
        guessed_TM = np.zeros((len(guesses), len(columns_M)))
        for at, one in enumerate(guesses):
            guessed_TM[at, columns_M.searchsorted(one.fit.columns_K)] = one.fit.coefficients_K
        before: RowTerms = guesses[0].fit.state
        terms = self._terms(guessed_TM @ taken_NM.T + guesses[0].fit.intercept)
        gradient_TM = terms.slope_N @ taken_NM + self.ridge_weight * guessed_TM
        gained_T = np.zeros(len(guesses))
        if self._centred:
            # The intercept's own step first; the rest of the gradient is what that leaves.
            total = max(float(before.curvature_N.sum()), 1e-300)
            slope_T = terms.slope_N.sum(1)
            gradient_TM -= np.outer(slope_T, before.curvature_N @ taken_NM / total)
            gained_T += slope_T**2 / total
        for at, one in enumerate(guesses):
            gradient_K = gradient_TM[at, columns_M.searchsorted(one.fit.columns_K)]
            whitened_K = forward(one.factor_KK, gradient_K)
            gained_T[at] += whitened_K @ whitened_K
        objective_T = terms.loss + 0.5 * self.ridge_weight * (guessed_TM * guessed_TM).sum(1)
        return objective_T - 2.0 * gained_T

    def ridged(self, weight: float) -> "GlmProblem":
        """Return the same rows under a ridge of at least this weight."""
        other = copy(self)
        other.ridge_weight = max(self.ridge_weight, weight)
        return other

    def _design(self, columns_K: Ints) -> Floats:
        if not self._centred:
            return self._columns.take(columns_K)
        design_JN = np.empty((len(columns_K) + 1, self._columns.num_rows))
        self._columns.copy(columns_K, design_JN[:-1])
        design_JN[-1] = 1.0
        return design_JN.T

    def _starting(self, columns_K: Ints, start: Fit | None) -> Floats:
        start_J = np.zeros(len(columns_K) + self._centred)
        if self._centred:
            start_J[-1] = self._start
        return start_J if start is None else shared_start(start_J, columns_K, start)

    def _terms(self, predictor_N: Floats) -> RowTerms:
        return row_terms(
            self._family,
            predictor_N=predictor_N + self._data.offset_N,
            y_N=self._data.y_N,
            weight_N=self._data.weight_N,
        )


def shared_start(start_J: Floats, columns_K: Ints, start: Fit) -> Floats:
    """Put the coefficients of an earlier fit where its columns are still in; return the start."""
    size = len(columns_K)
    if len(start_J) > size:
        start_J[-1] = start.intercept
    if np.array_equal(columns_K, start.columns_K):
        start_J[:size] = start.coefficients_K
        return start_J
    place = {column: at for at, column in enumerate(start.columns_K.tolist())}
    for at, column in enumerate(columns_K.tolist()):
        if column in place:
            start_J[at] = start.coefficients_K[place[column]]
    return start_J


def is_flat(hessian_KK: Floats, *, ridge: float, num_rows: float) -> bool:
    """Return whether the rows themselves hardly bend the loss along some column.

    Then only a ridge keeps its coefficient from infinity. What the rows bend is judged without the
    ridge: at a few per cent of positives one that was asked for may well be of its size.
    """
    if not len(hessian_KK):
        return False
    return float(hessian_KK.diagonal().min()) - ridge < 1e3 * RIDGE_FLOOR * num_rows
