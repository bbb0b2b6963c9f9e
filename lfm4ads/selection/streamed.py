"""Logistic and Poisson models of rows that are read anew for every sum.

A Newton step reads the chosen columns only; what goes between ranks is the (K + 1)^2 Hessian.
Slopes of all columns are one pass and 3 P numbers.

Dimension key: N rows of a batch, P candidate columns, K columns of a fit (J = K + 1), M columns
asked for.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from lfm4ads.core.errors import UserError
from lfm4ads.selection.columns import Floats, Ints, Scale, measure_scale
from lfm4ads.selection.families import Family, RowTerms, link, row_terms, saturated_loss
from lfm4ads.selection.glm import PERFECT_LOSS, SEPARATED_LOSS, is_flat, shared_start
from lfm4ads.selection.newton import Point, minimise
from lfm4ads.selection.problem import RIDGE_FLOOR, Fit, Guess, Slopes
from lfm4ads.selection.rows import RowBatch, RowSource, SumOverRanks


@dataclass(frozen=True)
class RowTotals:
    """Sums over the rows of all ranks."""

    scale: Scale
    weight: float
    label_mean: float
    event_weight: float
    saturated: float


def read_totals(
    source: RowSource, *, sum_over_ranks: SumOverRanks, family: Family = "logistic"
) -> RowTotals:
    """Return scales of all columns and totals of labels. Two passes: means, then spreads."""
    sum_P, totals_4 = np.zeros(source.num_columns), np.zeros(4)
    for batch in source.batches(None):
        sum_P += batch.weight_N @ batch.matrix_NM
        totals_4 += [
            batch.weight_N.sum(),
            batch.weight_N @ batch.y_N,
            batch.weight_N @ batch.event_N,
            saturated_loss(family, y_N=batch.y_N, weight_N=batch.weight_N),
        ]
    summed = sum_over_ranks(np.r_[sum_P, totals_4])
    sum_P, totals_4 = summed[:-4], summed[-4:]
    weight = float(totals_4[0])
    if not weight > 0:
        raise UserError("the rows of all ranks weigh nothing", everywhere=True)
    mean_P = sum_P / weight
    square_P = np.zeros_like(mean_P)
    for batch in source.batches(None):
        square_P += batch.weight_N @ (batch.matrix_NM - mean_P) ** 2
    square_P = sum_over_ranks(square_P)
    raw = measure_scale(0 * mean_P, square_P, total_weight=weight, centred=True)
    constant_P = square_P <= 1e-24 * weight * np.maximum(mean_P**2, 1e-300)
    scale = Scale(mean_P, np.where(constant_P, 1.0, raw.scale_P), constant_P | raw.constant_P)
    return RowTotals(
        scale, weight, float(totals_4[1]) / weight, float(totals_4[2]), float(totals_4[3])
    )


class StreamedGlm:
    """A row loss summed over the rows of all ranks."""

    is_quadratic = False
    wide_is_cheap = False

    def __init__(
        self,
        source: RowSource,
        totals: RowTotals,
        *,
        family: Family,
        sum_over_ranks: SumOverRanks,
        ridge: float = 0.0,
    ) -> None:
        if family == "logistic" and not 0 < totals.label_mean < 1:
            raise UserError(
                "the labels hold one class only; a classifier needs rows of two classes",
                everywhere=True,
            )
        self._source = source
        self._scale = totals.scale
        self._saturated = totals.saturated
        self._family: Family = family
        self._sum = sum_over_ranks
        self._start = link(family, totals.label_mean)
        self.num_rows = totals.weight
        self.num_columns = source.num_columns
        self.ridge_weight = (ridge + RIDGE_FLOOR) * self.num_rows

    def fit(self, columns_K: Ints, *, start: Fit | None, target: float = np.inf) -> Fit:
        """Run Newton's method; every evaluation is a pass over the chosen columns."""
        size = len(columns_K) + 1
        start_J = np.zeros(size)
        start_J[-1] = self._start
        if start is not None:
            start_J = shared_start(start_J, columns_K, start)

        def evaluate(at_J: Floats) -> Point:
            sums = np.zeros(1 + size + size * size)
            for batch, design_NJ in self._designs(columns_K):
                terms = self._terms(batch, design_NJ @ at_J)
                hessian_JJ = design_NJ.T @ (design_NJ * terms.curvature_N[:, None])
                sums += np.r_[terms.loss, design_NJ.T @ terms.slope_N, hessian_JJ.ravel()]
            sums = self._sum(sums)
            ridge_J = np.full(size, self.ridge_weight)
            ridge_J[-1] = 0.0
            hessian_JJ = sums[1 + size :].reshape(size, size) + np.diag(ridge_J)
            objective = float(sums[0]) + 0.5 * float(ridge_J @ at_J**2)
            gradient_J = sums[1 : 1 + size] + ridge_J * at_J
            return Point(at_J, objective, gradient_J, hessian_JJ, float(sums[0]))

        perfect = self._saturated + PERFECT_LOSS * self.num_rows
        point = minimise(evaluate, start_J, target=target, perfect=perfect)
        loss: float = point.state
        separated = loss - self._saturated < SEPARATED_LOSS * self.num_rows or is_flat(
            point.hessian_KK, ridge=self.ridge_weight, num_rows=self.num_rows
        )
        return Fit(
            columns_K, point.at_K[:-1], float(point.at_K[-1]), loss, point.objective, separated
        )

    def slopes(self, fit: Fit, *, columns_M: Ints | None) -> Slopes:
        """Return gradient and curvature, the intercept profiled out, in one pass."""
        asked = np.arange(self.num_columns) if columns_M is None else columns_M
        sums_3M, total = np.zeros((3, len(asked))), np.zeros(1)
        for terms, taken_NM in self._at(fit, asked):
            sums_3M[0] += terms.slope_N @ taken_NM
            sums_3M[1] += terms.curvature_N @ taken_NM
            sums_3M[2] += terms.curvature_N @ (taken_NM * taken_NM)
            total += terms.curvature_N.sum()
        summed = self._sum(np.r_[sums_3M.ravel(), total])
        gradient_M, first_M, second_M = summed[:-1].reshape(3, -1)
        held_P = np.zeros(self.num_columns)
        held_P[fit.columns_K] = fit.coefficients_K
        spread_M = second_M - first_M**2 / max(float(summed[-1]), 1e-300)
        curvature_M = np.maximum(spread_M, RIDGE_FLOOR * self.num_rows) + self.ridge_weight
        return Slopes(gradient_M + self.ridge_weight * held_P[asked], curvature_M)

    def hessian(self, fit: Fit, *, columns_M: Ints) -> Floats:
        """Return the second derivatives (M, M), the intercept profiled out, in one pass."""
        size = len(columns_M)
        sums = np.zeros(size * size + size + 1)
        for terms, taken_NM in self._at(fit, columns_M):
            curvature_N = terms.curvature_N
            own_MM = taken_NM.T @ (taken_NM * curvature_N[:, None])
            sums += np.r_[own_MM.ravel(), curvature_N @ taken_NM, curvature_N.sum()]
        sums = self._sum(sums)
        first_M = sums[size * size : -1]
        hessian_MM = sums[: size * size].reshape(size, size)
        hessian_MM = hessian_MM - np.outer(first_M, first_M) / max(float(sums[-1]), 1e-300)
        hessian_MM.flat[:: size + 1] += self.ridge_weight
        return hessian_MM

    def blocks(self, fit: Fit, *, columns_GM: Ints) -> Floats:
        """Return the Hessian blocks of groups, the intercept profiled out, in one pass."""
        groups, size = columns_GM.shape
        own_GMM, first_GM, total = np.zeros((groups, size, size)), np.zeros((groups, size)), 0.0
        for terms, taken_NM in self._at(fit, columns_GM.ravel()):
            block_GMN = taken_NM.T.reshape(groups, size, -1)
            weighed_GMN = block_GMN * terms.curvature_N
            own_GMM += weighed_GMN @ block_GMN.transpose(0, 2, 1)
            first_GM += weighed_GMN.sum(2)
            total += float(terms.curvature_N.sum())
        summed = self._sum(np.r_[own_GMM.ravel(), first_GM.ravel(), total])
        own_GMM = summed[: own_GMM.size].reshape(own_GMM.shape)
        first_GM = summed[own_GMM.size : -1].reshape(first_GM.shape)
        own_GMM -= first_GM[:, :, None] * first_GM[:, None] / max(float(summed[-1]), 1e-300)
        own_GMM[:, np.arange(size), np.arange(size)] += self.ridge_weight
        return own_GMM

    def across(self, fit: Fit) -> Floats | None:
        """Return None: they cost a pass over the files."""
        del fit

    def is_steep(self, fit: Fit) -> bool:
        """Return whether the fit is so sure of most rows that its curvature says little."""
        return fit.loss - self._saturated < 0.1 * self.num_rows

    def least(self, guesses: Sequence[Guess]) -> Floats:
        """Return -inf: every guess is fitted."""
        return np.full(len(guesses), -np.inf)

    def ridged(self, weight: float) -> "StreamedGlm":
        """Return the same rows under a ridge of at least this weight."""
        other = copy(self)
        other.ridge_weight = max(self.ridge_weight, weight)
        return other

    def deviance(self, loss: float) -> float:
        """Return twice the distance to the saturated loss."""
        return 2 * (loss - self._saturated)

    def noise(self, loss: float) -> float:
        """Return 1: the likelihood knows its own scale."""
        del loss
        return 1.0

    def _terms(self, batch: RowBatch, predictor_N: Floats) -> RowTerms:
        return row_terms(
            self._family, predictor_N=predictor_N, y_N=batch.y_N, weight_N=batch.weight_N
        )

    def _designs(self, columns_K: Ints) -> Iterator[tuple[RowBatch, Floats]]:
        mean_K, scale_K = self._scale.mean_P[columns_K], self._scale.scale_P[columns_K]
        for batch in self._source.batches(columns_K):
            design_NJ = np.ones((len(batch.y_N), len(columns_K) + 1), order="F")
            design_NJ[:, :-1] = (batch.matrix_NM - mean_K) / scale_K
            yield batch, design_NJ

    def _at(self, fit: Fit, asked: Ints) -> Iterator[tuple[RowTerms, Floats]]:
        """Yield the terms of a fit with the columns asked for, both from one read."""
        read = np.concatenate([fit.columns_K, asked])
        chosen = len(fit.columns_K)
        for batch, design_NJ in self._designs(read):
            predictor_N = design_NJ[:, :chosen] @ fit.coefficients_K + fit.intercept
            yield self._terms(batch, predictor_N), design_NJ[:, chosen:-1]
