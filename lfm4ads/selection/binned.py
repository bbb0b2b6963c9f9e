"""Cox models of rows that are read anew for every sum, times put into bins that all ranks share.

No row is ever sorted among others: sums by bin are added over ranks and only then summed over later
bins. The squared risk-weighted means must be taken after that, too. With a bin for every distinct
time the fit is exact; at 1,024 quantile bins coefficients move by about a thousandth.

Dimension key: N rows of a batch, P candidate columns, K columns of a fit, M columns asked for,
T bins.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from lfm4ads.core.errors import UserError
from lfm4ads.selection.columns import Floats, Ints
from lfm4ads.selection.glm import PERFECT_LOSS, SEPARATED_LOSS, is_flat, shared_start
from lfm4ads.selection.newton import Point, minimise
from lfm4ads.selection.problem import RIDGE_FLOOR, Fit, Guess, Slopes
from lfm4ads.selection.risk import Risk, Ties, build_terms, measure_risk, squared_means
from lfm4ads.selection.rows import RowBatch, RowSource, SumOverRanks
from lfm4ads.selection.streamed import RowTotals

_MAX_PREDICTOR = 300.0
_WIDE = 512


def quantile_bins(
    source: RowSource, *, sum_over_ranks: SumOverRanks, num_bins: int = 1024
) -> Floats:
    """Return the last time of every bin, ascending: quantiles of the times of all ranks.

    Edges are found by bisection on counts, so ranks exchange ``num_bins`` numbers at a time and no
    row. This rank's times are held: 8 bytes a row.
    """
    none = np.zeros(0, np.int64)
    times = np.sort(
        np.concatenate([_ordered(batch.y_N) for batch in source.batches(none)] or [none])
    )
    total = int(sum_over_ranks(np.array([len(times)]))[0])
    wanted = np.ceil(np.arange(1, num_bins + 1) / num_bins * total).astype(np.int64)
    low = np.full(num_bins, np.iinfo(np.int64).min // 2)
    high = np.full(num_bins, np.iinfo(np.int64).max // 2)
    while np.any(low < high):
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        counts = sum_over_ranks(np.searchsorted(times, middle, side="right").astype(np.int64))
        enough = counts >= wanted
        high = np.where(enough, middle, high)
        low = np.where(enough, low, np.minimum(middle + 1, high))
    return _unordered(np.unique(high))


def _ordered(values: Floats) -> Ints:
    """Map floats to integers of the same order."""
    bits = (values + 0.0).astype(np.float64).view(np.int64)
    return np.where(bits >= 0, bits, np.iinfo(np.int64).min - bits) >> 1


def _unordered(codes: Ints) -> Floats:
    """Map back, to the largest float of a code."""
    wide = codes * 2 + 1
    bits = np.where(wide >= 0, wide, np.iinfo(np.int64).min - (wide - 1))
    return bits.view(np.float64)


@dataclass(frozen=True)
class _Part:
    """A batch at a fit."""

    taken_NM: Floats
    bin_N: Ints
    hazard_N: Floats
    multiplier_N: Floats
    """Hazard times the cumulated baseline: what a row adds to gradient and Hessian."""
    event_N: Floats
    """Weights of rows with an event."""
    observed_N: Floats
    """1 for rows with an event."""


class BinnedCox:
    """The partial likelihood of binned times, summed over the rows of all ranks."""

    is_quadratic = False
    wide_is_cheap = False

    def __init__(
        self,
        source: RowSource,
        totals: RowTotals,
        *,
        edges_T: Floats,
        sum_over_ranks: SumOverRanks,
        ties: Ties = "breslow",
        ridge: float = 0.0,
    ) -> None:
        if not totals.event_weight > 0:
            raise UserError(
                "all rows are censored; a Cox model needs at least one event", everywhere=True
            )
        self._source = source
        self._scale = totals.scale
        self._edges_T = edges_T
        self._sum = sum_over_ranks
        sums = np.zeros((2, len(edges_T)))
        for batch, _, bin_N in self._designs(np.zeros(0, np.int64)):
            weight_N = batch.weight_N * batch.event_N
            sums[0] += np.bincount(bin_N, weight_N, minlength=len(edges_T))
            sums[1] += np.bincount(bin_N, weight_N > 0, minlength=len(edges_T))
        sums = sum_over_ranks(sums)
        self._terms = build_terms(
            weight_T=sums[0], count_T=sums[1].round().astype(np.int64), ties=ties
        )
        self._tied = bool(self._terms.fraction_E.any())
        self.num_rows = totals.event_weight
        self.num_columns = source.num_columns
        self.ridge_weight = (ridge + RIDGE_FLOOR) * self.num_rows

    def fit(self, columns_K: Ints, *, start: Fit | None, target: float = np.inf) -> Fit:
        """Run Newton's method; every evaluation is two passes over the chosen columns."""
        start_K = np.zeros(len(columns_K))
        if start is not None:
            start_K = shared_start(start_K, columns_K, start)

        def evaluate(at_K: Floats) -> Point:
            whole = Fit(columns_K, at_K, 0.0, 0.0, 0.0)
            risk, observed = self._risk(whole)
            gradient_K, hessian_KK = self._second(whole, risk, columns_K, full=True)
            hessian_KK.flat[:: len(at_K) + 1] += self.ridge_weight
            loss = risk.log_loss - observed
            objective = loss + 0.5 * self.ridge_weight * float(at_K @ at_K)
            return Point(at_K, objective, gradient_K + self.ridge_weight * at_K, hessian_KK, loss)

        perfect = PERFECT_LOSS * self.num_rows
        point = minimise(evaluate, start_K, target=target, perfect=perfect)
        loss: float = point.state
        separated = loss < SEPARATED_LOSS * self.num_rows or is_flat(
            point.hessian_KK, ridge=self.ridge_weight, num_rows=self.num_rows
        )
        return Fit(columns_K, point.at_K, 0.0, loss, point.objective, separated)

    def slopes(self, fit: Fit, *, columns_M: Ints | None) -> Slopes:
        """Return gradient and curvature: a pass for the risk, then one for every 512 columns."""
        asked = np.arange(self.num_columns) if columns_M is None else columns_M
        risk, _ = self._risk(fit)
        gradients, curvatures = [], []
        for at in range(0, len(asked), _WIDE):
            piece = asked[at : at + _WIDE]
            gradient_M, curvature_M = self._second(fit, risk, piece, full=False)
            gradients.append(gradient_M)
            curvatures.append(curvature_M)
        held_P = np.zeros(self.num_columns)
        held_P[fit.columns_K] = fit.coefficients_K
        floor = RIDGE_FLOOR * self.num_rows
        curvature_M = np.maximum(np.concatenate(curvatures), floor) + self.ridge_weight
        return Slopes(np.concatenate(gradients) + self.ridge_weight * held_P[asked], curvature_M)

    def hessian(self, fit: Fit, *, columns_M: Ints) -> Floats:
        """Return the second derivatives (M, M) in two passes."""
        risk, _ = self._risk(fit)
        _, hessian_MM = self._second(fit, risk, columns_M, full=True)
        hessian_MM.flat[:: len(columns_M) + 1] += self.ridge_weight
        return hessian_MM

    def blocks(self, fit: Fit, *, columns_GM: Ints) -> Floats:
        """Return the Hessian blocks of groups: a pass for the risk, then one for all of them."""
        groups, size = columns_GM.shape
        risk, _ = self._risk(fit)
        bins, tied = len(self._edges_T), 1 + self._tied
        own_GMM, sums_2TM = np.zeros((groups, size, size)), np.zeros((tied, bins, groups * size))
        for part in self._parts(fit, risk, columns_GM.ravel()):
            block_GMN = part.taken_NM.T.reshape(groups, size, -1)
            own_GMM += (block_GMN * part.multiplier_N) @ block_GMN.transpose(0, 2, 1)
            self._add_by_bin(sums_2TM, part)
        summed = self._sum(np.r_[own_GMM.ravel(), sums_2TM.ravel()])
        own_GMM = summed[: own_GMM.size].reshape(own_GMM.shape)
        sums_2TGM = summed[own_GMM.size :].reshape(tied, bins, groups, size)
        for group in range(groups):
            own_GMM[group] -= self._squared(risk, sums_2TGM[:, :, group], full=True)
        own_GMM[:, np.arange(size), np.arange(size)] += self.ridge_weight
        return own_GMM

    def across(self, fit: Fit) -> Floats | None:
        """Return None: they cost several passes."""
        del fit

    def is_steep(self, fit: Fit) -> bool:
        """Return whether the fit is so sure of most rows that its curvature says little."""
        return fit.loss < self.num_rows

    def least(self, guesses: Sequence[Guess]) -> Floats:
        """Return -inf: every guess is fitted."""
        return np.full(len(guesses), -np.inf)

    def ridged(self, weight: float) -> "BinnedCox":
        """Return the same rows under a ridge of at least this weight."""
        other = copy(self)
        other.ridge_weight = max(self.ridge_weight, weight)
        return other

    def deviance(self, loss: float) -> float:
        """Return minus twice the log partial likelihood."""
        return 2 * loss

    def noise(self, loss: float) -> float:
        """Return 1: the likelihood knows its own scale."""
        del loss
        return 1.0

    def _designs(self, columns_M: Ints) -> Iterator[tuple[RowBatch, Floats, Ints]]:
        mean_M, scale_M = self._scale.mean_P[columns_M], self._scale.scale_P[columns_M]
        for batch in self._source.batches(columns_M):
            bin_N = np.searchsorted(self._edges_T, batch.y_N, side="left")
            bin_N = np.minimum(bin_N, len(self._edges_T) - 1)
            yield batch, (batch.matrix_NM - mean_M) / scale_M, bin_N

    def _risk(self, fit: Fit) -> tuple[Risk, float]:
        """Return the risk sets at a fit, and the events' sum of predictors."""
        bins = len(self._edges_T)
        sums = np.zeros(2 * bins + 1)
        for batch, design_NK, bin_N in self._designs(fit.columns_K):
            predictor_N = design_NK @ fit.coefficients_K
            hazard_N = batch.weight_N * np.exp(np.minimum(predictor_N, _MAX_PREDICTOR))
            sums[:bins] += np.bincount(bin_N, hazard_N, minlength=bins)
            sums[bins:-1] += np.bincount(bin_N, hazard_N * batch.event_N, minlength=bins)
            sums[-1] += (batch.weight_N * batch.event_N) @ predictor_N
        sums = self._sum(sums)
        risk = measure_risk(self._terms, risk_T=sums[:bins], event_risk_T=sums[bins:-1])
        return risk, float(sums[-1])

    def _second(self, fit: Fit, risk: Risk, asked: Ints, *, full: bool) -> tuple[Floats, Floats]:
        """Return the gradient (M,) and the Hessian (M, M) or its diagonal, without ridge."""
        width, bins = len(asked), len(self._edges_T)
        gradient_M = np.zeros(width)
        own = np.zeros((width, width) if full else width)
        sums_2TM = np.zeros((1 + self._tied, bins, width))
        for part in self._parts(fit, risk, asked):
            taken_NM = part.taken_NM
            gradient_M += (part.multiplier_N - part.event_N) @ taken_NM
            if full:
                own += taken_NM.T @ (taken_NM * part.multiplier_N[:, None])
            else:
                own += part.multiplier_N @ taken_NM**2
            self._add_by_bin(sums_2TM, part)
        # Squares of sums may be taken only of the sums of all ranks.
        summed = self._sum(np.r_[gradient_M, own.ravel(), sums_2TM.ravel()])
        own = summed[width : width + own.size].reshape(own.shape)
        sums_2TM = summed[width + own.size :].reshape(sums_2TM.shape)
        return summed[:width], own - self._squared(risk, sums_2TM, full=full)

    def _parts(self, fit: Fit, risk: Risk, asked: Ints) -> Iterator[_Part]:
        chosen = len(fit.columns_K)
        for batch, design, bin_N in self._designs(np.concatenate([fit.columns_K, asked])):
            predictor_N = design[:, :chosen] @ fit.coefficients_K
            hazard_N = batch.weight_N * np.exp(np.minimum(predictor_N, _MAX_PREDICTOR))
            left_N = risk.rows_T[bin_N] - batch.event_N * risk.events_T[bin_N]
            yield _Part(
                np.asfortranarray(design[:, chosen:]),
                bin_N,
                hazard_N,
                hazard_N * left_N,
                batch.weight_N * batch.event_N,
                batch.event_N,
            )

    def _add_by_bin(self, sums_2TM: Floats, part: _Part) -> None:
        """Add sums of columns over the rows of each bin, and over its events where any are tied."""
        bins = len(self._edges_T)
        sums_2TM[0] += _by_bin(part.bin_N, part.hazard_N, bins) @ part.taken_NM
        if self._tied:
            sums_2TM[1] += (
                _by_bin(part.bin_N, part.hazard_N * part.observed_N, bins) @ part.taken_NM
            )

    def _squared(self, risk: Risk, sums_2TM: Floats, *, full: bool) -> Floats:
        events_TM = sums_2TM[1] if self._tied else None
        return squared_means(
            self._terms, risk, sums_TK=sums_2TM[0], event_sums_TK=events_TM, full=full
        )


def _by_bin(bin_N: Ints, values_N: Floats, num_bins: int) -> sparse.csr_array:
    """Return the matrix (T, N) that sums rows times values by bin."""
    at = np.arange(len(bin_N))
    return sparse.csr_array((values_N, (bin_N, at)), shape=(num_bins, len(bin_N)))
