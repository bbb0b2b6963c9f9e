"""Exchanges of chosen for other units, judged on the second-order model before anything is fitted.

For linear models the model is the loss, so every predicted exchange is exact. Splicing as in the
later literature exchanges the c worst chosen for the c best others; besides that all pairs of one
chosen and one likely other column are tried, which the inverse on the chosen set gives at once.

Dimension key: K chosen columns, C other columns, M = K + C.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lfm4ads.selection.columns import Floats, Ints
from lfm4ads.selection.newton import factorise, forward, invert, solve
from lfm4ads.selection.problem import Fit, Guess, Problem
from lfm4ads.selection.units import FEW, Units, pick_largest


@dataclass(frozen=True)
class Swap:
    """Units that leave and come, and the change of the objective that is expected."""

    leaving: Ints
    coming: Ints
    change: float
    rise: float
    """Of the objective, were nothing to come."""


@dataclass(frozen=True)
class Neighbourhood:
    """The second-order model on the chosen units and the likely others."""

    fit: Fit

    chosen: Ints
    others: Ints
    units: Units
    coefficient_K: Floats
    gradient_C: Floats
    """Of the other columns; those of chosen ones are zero."""
    inverse_KK: Floats
    """Inverse of the Hessian of the chosen columns."""
    explained_KC: Floats
    """The inverse times the Hessian across."""
    schur_CC: Floats
    """Hessian of the other columns, less what the chosen explain."""
    hessian_MM: Floats
    unit_K: Ints
    unit_C: Ints


def open_neighbourhood(
    problem: Problem, units: Units, fit: Fit, *, chosen: Ints, values_U: Floats, num_others: int
) -> Neighbourhood:
    """Return the model on the chosen units and the ``num_others`` best of the rest."""
    outside_U = -values_U
    outside_U[chosen] = np.inf
    room = int(np.count_nonzero(outside_U < np.inf))
    if len(outside_U) <= FEW:
        others = outside_U.argsort(kind="stable")[: min(num_others, room)]
    else:
        others = pick_largest(-outside_U, min(num_others, room))
        others = others[outside_U[others].argsort(kind="stable")]
    columns_C = units.columns(others)
    columns_M = np.concatenate([fit.columns_K, columns_C])
    hessian_MM = problem.hessian(fit, columns_M=columns_M)
    size = len(fit.columns_K)
    inverse_KK = invert(hessian_MM[:size, :size])
    across_KC = hessian_MM[:size, size:]
    explained_KC = inverse_KK @ across_KC
    return Neighbourhood(
        fit,
        chosen,
        others,
        units,
        fit.coefficients_K,
        problem.slopes(fit, columns_M=columns_C).gradient_M,
        inverse_KK,
        explained_KC,
        hessian_MM[size:, size:] - across_KC.T @ explained_KC,
        hessian_MM,
        units.unit_P[fit.columns_K],
        units.unit_P[columns_C],
    )


def guess(near: Neighbourhood, swap: Swap) -> Guess:
    """Return what the model expects of an exchange of plain units."""
    fit, size = near.fit, len(near.chosen)
    columns_M = np.concatenate([near.unit_K, near.unit_C])
    stays_M = np.zeros(len(columns_M), bool)
    stays_M[:size] = True
    stays_M[near.unit_K.searchsorted(swap.leaving)] = False
    stays_M[size + (near.unit_C[:, None] == swap.coming).nonzero()[0]] = True
    at = stays_M.nonzero()[0]
    at = at[columns_M[at].argsort()]
    rows_KM = near.hessian_MM[at]
    factor_KK = factorise(rows_KM[:, at])
    # The model's minimum on all columns, had they none of its curvature: H b - g.
    wanted_K = rows_KM[:, :size] @ fit.coefficients_K
    wanted_K -= np.concatenate([np.zeros(size), near.gradient_C])[at]
    found = replace(fit, columns_K=columns_M[at], coefficients_K=solve(factor_KK, wanted_K))
    return Guess(found, factor_KK)


def pair_swaps(near: Neighbourhood, *, count: int) -> list[Swap]:
    """Return the ``count`` best exchanges of one chosen for one other column."""
    pairs = Pairs(
        near.chosen,
        near.others,
        near.coefficient_K,
        near.inverse_KK.diagonal(),
        near.gradient_C,
        near.schur_CC.diagonal(),
        near.explained_KC,
    )
    return best_pairs(pairs, always_U=near.units.always_U, count=count)


@dataclass(frozen=True)
class Pairs:
    """What exchanges of single columns are judged by."""

    chosen: Ints
    others: Ints
    coefficient_K: Floats
    inverse_K: Floats
    gradient_C: Floats
    schur_C: Floats
    explained_KC: Floats


def best_pairs(pairs: Pairs, *, always_U: npt.NDArray[np.bool_], count: int) -> list[Swap]:
    """Return the ``count`` best exchanges of one chosen for one other column.

    Without column i the objective rises by b_i^2 / (2 V_ii), V the inverse on the chosen; the
    gradient and the Schur complement of column j move by what i had explained.
    """
    if not len(pairs.chosen) or not len(pairs.others):
        return []
    diagonal_K1 = pairs.inverse_K[:, None]
    coefficient_K1 = pairs.coefficient_K[:, None]
    ratio_KC = pairs.explained_KC / diagonal_K1
    gradient_KC = pairs.gradient_C - coefficient_K1 * ratio_KC
    curvature_KC = pairs.explained_KC * ratio_KC
    curvature_KC += np.maximum(pairs.schur_C, 1e-300)
    rise_K1 = coefficient_K1**2 / (2.0 * diagonal_K1)
    change_KC = rise_K1 - gradient_KC**2 / (2.0 * curvature_KC)
    change_KC[always_U[pairs.chosen]] = np.inf
    flat = change_KC.ravel()
    best = [int(flat.argmin())] if count == 1 else flat.argsort(kind="stable")[:count].tolist()
    swaps = []
    for at in best:
        i, j = divmod(at, change_KC.shape[1])
        change, rise = float(change_KC[i, j]), float(rise_K1[i, 0])
        if change < np.inf:
            swaps.append(Swap(pairs.chosen[i : i + 1], pairs.others[j : j + 1], change, rise))
    return swaps


def block_swaps(near: Neighbourhood, values_U: Floats, *, most: int) -> Iterator[Swap]:
    """Yield exchanges of the c worst chosen for the c best others, c = 1 .. most.

    Units of several columns also pair their ``most`` worst with each of the ``most`` best.
    """
    free = near.chosen[~near.units.always_U[near.chosen]]
    worst = free[values_U[free].argsort(kind="stable")]
    most = min(most, len(worst), len(near.others))
    if near.units.plain:
        yield from _nested(near, worst[:most], near.others[:most])
        return
    for count in range(1, most + 1):
        yield _predicted(near, worst[:count], near.others[:count])
    for leaving in range(most):
        for coming in range(most):
            if leaving or coming:
                yield _predicted(near, worst[[leaving]], near.others[[coming]])


def _nested(near: Neighbourhood, worst: Ints, best: Ints) -> list[Swap]:
    """Exchange the first c of two lists for every c, from one factor of the longest."""
    if not len(worst):
        return []
    gone = near.chosen.searchsorted(worst)
    most = len(best)
    factor = factorise(near.inverse_KK[gone[:, None], gone])
    joined = np.empty((most, most + 1), order="F")
    joined[:, 0] = near.coefficient_K[gone]
    joined[:, 1:] = near.explained_KC[gone, :most]
    joined = forward(factor, joined)
    swaps = []
    for count in range(1, most + 1):
        # One product gives m'm, E'm and E'E.
        across = joined[:count, : count + 1]
        inner = across.T @ across
        schur = near.schur_CC[:count, :count] + inner[1:, 1:]
        gradient = near.gradient_C[:count] - inner[1:, 0]
        whitened = forward(factorise(schur), gradient)
        rise = 0.5 * float(inner[0, 0])
        change = rise - 0.5 * float(whitened @ whitened)
        swaps.append(Swap(worst[:count], best[:count], change, rise))
    return swaps


def _predicted(near: Neighbourhood, leaving: Ints, coming: Ints) -> Swap:
    """Move some coefficients to zero, then minimise over those that come: small solves only."""
    gone = (near.unit_K[:, None] == leaving).any(1).nonzero()[0]
    come = (near.unit_C[:, None] == coming).any(1).nonzero()[0]
    factor = factorise(near.inverse_KK[gone[:, None], gone])
    left = near.coefficient_K[gone]
    explained = near.explained_KC[gone[:, None], come]
    moved = solve(factor, left)
    gradient = near.gradient_C[come] - moved @ explained
    schur = near.schur_CC[come[:, None], come] + explained.T @ solve(factor, explained)
    gain = gradient @ solve(factorise(schur), gradient)
    rise = 0.5 * float(left @ moved)
    return Swap(leaving, coming, rise - 0.5 * float(gain), rise)
