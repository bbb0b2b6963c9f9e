"""Cox proportional hazards for arrays in memory: O(N P) a pass, ties by Efron or Breslow.

Rows are sorted by time once; a block is a run of equal times, so the order of tied rows cannot
matter.

Dimension key: N rows, P candidate columns, K columns of a fit, M columns asked for, T blocks,
E terms, G groups.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from lfm4ads.selection.columns import Columns, Floats, Ints
from lfm4ads.selection.glm import PERFECT_LOSS, SEPARATED_LOSS, is_flat, shared_start
from lfm4ads.selection.newton import Point, minimise
from lfm4ads.selection.problem import RIDGE_FLOOR, Fit, Guess, Slopes
from lfm4ads.selection.risk import Risk, Ties, build_terms, measure_risk, squared_means

_WIDE = 256
"""Columns whose risk sums are held at once: 256 x 1e5 blocks are 200 MB."""


@dataclass(frozen=True)
class CoxState:
    """A partial likelihood at one linear predictor."""

    risk: Risk
    hazard_N: Floats
    """Weight times exp(predictor)."""
    multiplier_N: Floats
    """Expected events of every row: its hazard times the cumulative baseline."""


class CoxProblem:
    """The negative log partial likelihood of standardised columns; rows sorted by time."""

    is_quadratic = False

    def __init__(
        self,
        columns: Columns,
        *,
        time_N: Floats,
        event_N: Floats,
        weight_N: Floats,
        ties: Ties,
        ridge: float = 0.0,
        floor: float = RIDGE_FLOOR,
    ) -> None:
        """Take rows in ascending order of time; events are 1, censored rows 0."""
        self._columns = columns
        self._event_N = event_N
        self._weight_N = weight_N
        starts = np.flatnonzero(np.r_[True, np.diff(time_N) > 0])
        self._starts = starts
        self._block_N = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(time_N)]))
        self._event_weight_N = weight_N * event_N
        self._terms = build_terms(
            weight_T=self._by_block(self._event_weight_N),
            count_T=np.bincount(self._block_N[event_N > 0], minlength=len(starts)),
            ties=ties,
        )
        self._tied = bool(self._terms.fraction_E.any())
        self.num_columns = columns.num_columns
        self.num_rows = float(self._event_weight_N.sum())
        self.wide_is_cheap = columns.num_columns <= 64
        self.ridge_weight = (ridge + floor) * self.num_rows

    def fit(self, columns_K: Ints, *, start: Fit | None, target: float = np.inf) -> Fit:
        """Run Newton's method from the coefficients that ``start`` shares."""
        design_NK = self._columns.take(columns_K)
        start_K = np.zeros(len(columns_K))
        if start is not None:
            start_K = shared_start(start_K, columns_K, start)

        def evaluate(at_K: Floats) -> Point:
            predictor_N = design_NK @ at_K
            state = self._state(predictor_N)
            loss = state.risk.log_loss - float(self._event_weight_N @ predictor_N)
            slope_N = state.multiplier_N - self._event_weight_N
            hessian_KK = self._hessian(state, design_NK)
            hessian_KK.flat[:: len(at_K) + 1] += self.ridge_weight
            gradient_K = design_NK.T @ slope_N + self.ridge_weight * at_K
            objective = loss + 0.5 * self.ridge_weight * float(at_K @ at_K)
            return Point(at_K, objective, gradient_K, hessian_KK, (loss, state))

        point = minimise(evaluate, start_K, target=target, perfect=PERFECT_LOSS * self.num_rows)
        loss, state = point.state
        separated = loss < SEPARATED_LOSS * self.num_rows or is_flat(
            point.hessian_KK, ridge=self.ridge_weight, num_rows=self.num_rows
        )
        return Fit(columns_K, point.at_K, 0.0, loss, point.objective, separated, state)

    def loss_at(self, columns_K: Ints, coefficients_K: Floats) -> float:
        """Return the loss at given standardised coefficients."""
        predictor_N = self._columns.take(columns_K) @ coefficients_K
        events = float(self._event_weight_N @ predictor_N)
        return self._state(predictor_N).risk.log_loss - events

    def slopes(self, fit: Fit, *, columns_M: Ints | None) -> Slopes:
        """Return gradient and curvature at a fit."""
        state: CoxState = fit.state
        slope_N = state.multiplier_N - self._event_weight_N
        if columns_M is None:
            gradient_M = self._columns.sums(slope_N[:, None])[:, 0]
            every = np.arange(self.num_columns)
            pieces = [every[at : at + _WIDE] for at in range(0, self.num_columns, _WIDE)]
            curvature_M = np.concatenate(
                [self._curvature(state, self._columns.peek(piece)) for piece in pieces]
            )
        else:
            taken_NM = self._columns.take(columns_M)
            gradient_M = taken_NM.T @ slope_N
            curvature_M = self._curvature(state, taken_NM)
        held_P = np.zeros(self.num_columns)
        held_P[fit.columns_K] = fit.coefficients_K
        held_M = held_P if columns_M is None else held_P[columns_M]
        floored_M = np.maximum(curvature_M, RIDGE_FLOOR * self.num_rows) + self.ridge_weight
        return Slopes(gradient_M + self.ridge_weight * held_M, floored_M)

    def hessian(self, fit: Fit, *, columns_M: Ints) -> Floats:
        """Return the second derivatives (M, M)."""
        hessian_MM = self._hessian(fit.state, self._columns.take(columns_M))
        hessian_MM.flat[:: len(columns_M) + 1] += self.ridge_weight
        return hessian_MM

    def blocks(self, fit: Fit, *, columns_GM: Ints) -> Floats:
        """Return the Hessian blocks of groups."""
        return np.stack([self.hessian(fit, columns_M=columns_M) for columns_M in columns_GM])

    def deviance(self, loss: float) -> float:
        """Return minus twice the log partial likelihood."""
        return 2 * loss

    def noise(self, loss: float) -> float:
        """Return 1: the likelihood knows its own scale."""
        del loss
        return 1.0

    def across(self, fit: Fit) -> Floats | None:
        """Return None: they cost several passes."""
        del fit

    def is_steep(self, fit: Fit) -> bool:
        """Return whether the fit is so sure of most rows that its curvature says little."""
        return fit.loss < self.num_rows

    def least(self, guesses: Sequence[Guess]) -> Floats:
        """Return -inf: every guess is fitted."""
        return np.full(len(guesses), -np.inf)

    def ridged(self, weight: float) -> "CoxProblem":
        """Return the same rows under a ridge of at least this weight."""
        other = copy(self)
        other.ridge_weight = max(self.ridge_weight, weight)
        return other

    def _by_block(self, values: Floats) -> Floats:
        if len(self._starts) == len(values):
            return values
        return np.add.reduceat(values, self._starts, axis=0)

    def _state(self, predictor_N: Floats) -> CoxState:
        # A common factor leaves the partial likelihood alone; the largest hazard becomes 1.
        top = float(predictor_N.max(initial=0.0))
        hazard_N = self._weight_N * np.exp(predictor_N - top)
        risk = measure_risk(
            self._terms,
            risk_T=self._by_block(hazard_N),
            event_risk_T=self._by_block(hazard_N * self._event_N),
        )
        taken_N = risk.rows_T[self._block_N] - self._event_N * risk.events_T[self._block_N]
        risk = replace(risk, log_loss=risk.log_loss + top * self.num_rows)
        return CoxState(risk, hazard_N, hazard_N * taken_N)

    def _hessian(self, state: CoxState, design_NM: Floats) -> Floats:
        own_MM = design_NM.T @ (design_NM * state.multiplier_N[:, None])
        return own_MM - self._squared(state, design_NM, full=True)

    def _curvature(self, state: CoxState, design_NM: Floats) -> Floats:
        own_M = state.multiplier_N @ (design_NM * design_NM)
        return own_M - self._squared(state, design_NM, full=False)

    def _squared(self, state: CoxState, design_NM: Floats, *, full: bool) -> Floats:
        hazard_NM = design_NM * state.hazard_N[:, None]
        events_TM = None
        if self._tied:
            events_TM = self._by_block(hazard_NM * self._event_N[:, None])
        return squared_means(
            self._terms,
            state.risk,
            sums_TK=self._by_block(hazard_NM),
            event_sums_TK=events_TM,
            full=full,
        )
