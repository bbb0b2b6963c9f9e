"""Linear models on a Gram matrix: after one pass over the rows no search reads them again.

In memory the Gram matrix is made column by column, when a column first becomes active, and a few
likely next ones with it, since one pass over a wide matrix costs the same for one and for sixteen.

Dimension key: P candidate columns, K columns of a fit, M columns asked for, G groups.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lfm4ads.selection.columns import Columns, Floats, Ints
from lfm4ads.selection.newton import factorise, solve
from lfm4ads.selection.problem import RIDGE_FLOOR, Fit, Guess, Slopes

_AHEAD = 16
_WHOLE_BELOW = 256
"""Columns up to which the whole Gram matrix is made at once."""


class Gram(Protocol):
    """Second moments X'WX of standardised columns."""

    num_columns: int

    def make(self, columns_K: Ints, *, likely_P: Floats) -> None:
        """Have rows ready; ``likely`` may be asked for next."""
        ...

    def combine(self, columns_K: Ints, values_K: Floats) -> Floats:
        """Return the sum of rows times values (P,)."""
        ...

    def block(self, columns_M: Ints) -> Floats:
        """Return some rows and columns (M, M), a new array."""
        ...


class WholeGram:
    """A Gram matrix held entirely."""

    def __init__(self, gram_PP: Floats) -> None:
        self.num_columns = len(gram_PP)
        self._gram_PP = gram_PP

    def make(self, columns_K: Ints, *, likely_P: Floats) -> None:
        """Do nothing: all is there."""
        del columns_K, likely_P

    def combine(self, columns_K: Ints, values_K: Floats) -> Floats:
        """Return the sum of rows times values (P,)."""
        return values_K @ self._gram_PP[columns_K]

    def block(self, columns_M: Ints) -> Floats:
        """Return some rows and columns (M, M)."""
        return self._gram_PP[columns_M[:, None], columns_M]


class LazyGram:
    """A Gram matrix whose rows are made when first asked for."""

    def __init__(self, columns: Columns, *, weight_N: Floats) -> None:
        self.num_columns = columns.num_columns
        self._columns = columns
        self._weight_N = weight_N
        self._plain = bool(np.all(weight_N == 1.0))
        self._slot_P = np.full(columns.num_columns, -1, dtype=np.int64)
        self._made: Floats = np.empty((0, columns.num_columns))
        self._num_made = 0

    def make(self, columns_K: Ints, *, likely_P: Floats) -> None:
        """Make the missing rows, and the likely next ones in the same pass."""
        missing = columns_K[self._slot_P[columns_K] < 0]
        if not len(missing):
            return
        likely = _largest(likely_P)
        ahead = likely[self._slot_P[likely] < 0]
        columns_K = np.unique(np.concatenate([missing, ahead[:_AHEAD]]))
        needed = self._num_made + len(columns_K)
        if needed > len(self._made):
            larger = np.empty((max(2 * needed, 64), self.num_columns))
            larger[: self._num_made] = self._made[: self._num_made]
            self._made = larger
        weighed_NK = self._weighed(self._columns.take(columns_K))
        self._made[self._num_made : needed] = self._columns.sums(weighed_NK).T
        self._slot_P[columns_K] = np.arange(self._num_made, needed)
        self._num_made = needed

    def combine(self, columns_K: Ints, values_K: Floats) -> Floats:
        """Return the sum of rows times values (P,)."""
        return values_K @ self._made[self._slot_P[columns_K]]

    def block(self, columns_M: Ints) -> Floats:
        """Return some rows and columns (M, M), from made rows where there are any."""
        slots = self._slot_P[columns_M]
        new = np.flatnonzero(slots < 0)
        if not len(new):
            return self._made[slots[:, None], columns_M]
        block_MM = np.empty((len(columns_M), len(columns_M)))
        old = np.flatnonzero(slots >= 0)
        block_MM[old] = self._made[slots[old][:, None], columns_M]
        block_MM[:, old] = block_MM[old].T
        taken = self._columns.take(columns_M[new])
        block_MM[new[:, None], new] = taken.T @ self._weighed(taken)
        return block_MM

    def _weighed(self, taken_NK: Floats) -> Floats:
        return taken_NK if self._plain else taken_NK * self._weight_N[:, None]


class LinearProblem:
    """Half the weighted squared error of y on standardised columns, the intercept profiled out."""

    is_quadratic = True
    wide_is_cheap = True

    def __init__(
        self,
        gram: Gram,
        *,
        moment_P: Floats,
        square: float,
        num_rows: float,
        mean: float,
        ridge: float = 0.0,
        floor: float = RIDGE_FLOOR,
    ) -> None:
        """Take X'Wy (P,), y'Wy, the sum of weights and the mean of y; columns and y are centred."""
        self._gram = gram
        self._moment_P = moment_P
        self._square = square
        self._mean = mean
        self._ridge = (ridge + floor) * num_rows
        self._likely_P = moment_P
        self._last: tuple[Fit, Slopes] | None = None
        self._curvature_P = np.full(gram.num_columns, num_rows + self._ridge)
        self.num_rows = num_rows
        self.num_columns = gram.num_columns

    def fit(self, columns_K: Ints, *, start: Fit | None, target: float = np.inf) -> Fit:
        """Solve the normal equations; where one starts does not matter."""
        del start, target
        self._gram.make(columns_K, likely_P=self._likely_P)
        lifted_KK = self._gram.block(columns_K)
        lifted_KK.flat[:: len(columns_K) + 1] += self._ridge
        moment_K = self._moment_P[columns_K]
        coefficients_K = solve(factorise(lifted_KK), moment_K)
        norm = float(coefficients_K @ coefficients_K)
        objective = 0.5 * max(self._square - float(moment_K @ coefficients_K), 0.0)
        loss = max(objective - 0.5 * self._ridge * norm, 0.0)
        return Fit(columns_K, coefficients_K, self._mean, loss, objective)

    def slopes(self, fit: Fit, *, columns_M: Ints | None) -> Slopes:
        """Return gradient and curvature from the Gram rows of the fit."""
        if self._last is None or self._last[0] is not fit:
            gradient_P = self._gram.combine(fit.columns_K, fit.coefficients_K) - self._moment_P
            gradient_P[fit.columns_K] += self._ridge * fit.coefficients_K
            self._likely_P = gradient_P
            self._last = fit, Slopes(gradient_P, self._curvature_P)
        whole = self._last[1]
        if columns_M is None:
            return whole
        return Slopes(whole.gradient_M[columns_M], whole.curvature_M[columns_M])

    def hessian(self, fit: Fit, *, columns_M: Ints) -> Floats:
        """Return the Gram block with the ridge; it is the same at every fit."""
        del fit
        block_MM = self._gram.block(columns_M)
        block_MM.flat[:: len(columns_M) + 1] += self._ridge
        return block_MM

    def blocks(self, fit: Fit, *, columns_GM: Ints) -> Floats:
        """Return the Gram blocks of groups."""
        return np.stack([self.hessian(fit, columns_M=columns_M) for columns_M in columns_GM])

    def across(self, fit: Fit) -> Floats | None:
        """Return the Gram rows of the fit, with the ridge (P, K): they are there already."""
        size = len(fit.columns_K)
        across_KP = self._gram.combine(fit.columns_K, np.eye(size))
        across_KP[np.arange(size), fit.columns_K] += self._ridge
        return across_KP.T

    def is_steep(self, fit: Fit) -> bool:
        """Return False: the second-order model is the loss."""
        del fit
        return False

    def least(self, guesses: Sequence[Guess]) -> Floats:
        """Return -inf: every guess is fitted."""
        return np.full(len(guesses), -np.inf)

    def ridged(self, weight: float) -> "LinearProblem":
        """Return itself: its loss always has a finite minimum and is its second-order model."""
        del weight
        return self

    def deviance(self, loss: float) -> float:
        """Return n log(MSE)."""
        smallest = 1e-300 + 1e-15 * self._square / self.num_rows
        return self.num_rows * float(np.log(max(2 * loss / self.num_rows, smallest)))

    def noise(self, loss: float) -> float:
        """Return the variance of the residual."""
        return 2 * loss / self.num_rows


def _largest(values_P: Floats) -> Ints:
    if len(values_P) <= _AHEAD:
        return np.arange(len(values_P))
    return np.argpartition(-np.abs(values_P), _AHEAD)[:_AHEAD]


def build_linear(
    columns: Columns,
    y_N: Floats,
    *,
    weight_N: Floats,
    centred: bool,
    ridge: float = 0.0,
    floor: float = RIDGE_FLOOR,
) -> LinearProblem:
    """Return the linear problem of arrays in memory."""
    total = float(weight_N.sum())
    mean = float(weight_N @ y_N) / total if centred else 0.0
    rest_N = y_N - mean
    gram: Gram
    if columns.num_columns <= _WHOLE_BELOW:
        taken_NP = columns.take(np.arange(columns.num_columns)) * np.sqrt(weight_N)[:, None]
        gram = WholeGram(taken_NP.T @ taken_NP)
    else:
        gram = LazyGram(columns, weight_N=weight_N)
    return LinearProblem(
        gram,
        moment_P=columns.sums((weight_N * rest_N)[:, None])[:, 0],
        square=float(weight_N @ rest_N**2),
        num_rows=total,
        mean=mean,
        ridge=ridge,
        floor=floor,
    )
