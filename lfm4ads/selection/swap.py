"""Exchanges of chosen for other units, judged on the second-order model before anything is fitted.

For linear models the model is the loss, so every predicted exchange is exact. Splicing as in the
later literature exchanges the c worst chosen for the c best others; besides that all pairs of one
chosen and one likely other column are tried, which the inverse on the chosen set gives at once.

Dimension key: K chosen columns, C other columns, M = K + C.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from lfm4ads.selection.columns import Floats, Ints
from lfm4ads.selection.newton import factorise, forward, invert, solve
from lfm4ads.selection.problem import Fit, Problem
from lfm4ads.selection.units import Units, pick_largest

_LIFT, _TINY = 1e-12, 1e-300
"""What keeps the Schur complement of columns that others explain from being singular."""


@dataclass(frozen=True)
class Swap:
    """Units that leave and come, and the change of the objective that is expected."""

    leaving: Ints
    coming: Ints
    change: float


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
    unit_K: Ints
    unit_C: Ints


def open_neighbourhood(
    problem: Problem, units: Units, fit: Fit, *, chosen: Ints, values_U: Floats, num_others: int
) -> Neighbourhood:
    """Return the model on the chosen units and the ``num_others`` best of the rest."""
    outside_U = values_U.copy()
    outside_U[chosen] = -np.inf
    room = int(np.count_nonzero(outside_U > -np.inf))
    others = pick_largest(outside_U, min(num_others, room))
    others = others[np.argsort(-values_U[others], kind="stable")]
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
        units.unit_P[fit.columns_K],
        units.unit_P[columns_C],
    )


def guess(near: Neighbourhood, swap: Swap) -> Fit:
    """Return the fit with the coefficients that the model expects after an exchange of columns.

    Newton's method that starts there mostly sees at once whether the exchange pays.
    """
    fit = near.fit
    gone = near.unit_K.searchsorted(swap.leaving)
    come = (near.unit_C[:, None] == swap.coming).nonzero()[0]
    across_KG = near.inverse_KK[:, gone]
    moved_G = solve(factorise(across_KG[gone]), fit.coefficients_K[gone])
    explained_GC = near.explained_KC[gone[:, None], come]
    gradient_C = near.gradient_C[come] - moved_G @ explained_GC
    joined_GC = solve(factorise(across_KG[gone]), explained_GC)
    schur_CC = near.schur_CC[come[:, None], come] + explained_GC.T @ joined_GC
    coming_C = -solve(factorise(schur_CC), gradient_C)
    left_K = fit.coefficients_K - across_KG @ (moved_G - joined_GC @ coming_C)
    left_K -= near.explained_KC[:, come] @ coming_C
    left_K[gone] = 0.0
    columns = np.concatenate([fit.columns_K, near.unit_C[come]])
    return replace(fit, columns_K=columns, coefficients_K=np.concatenate([left_K, coming_C]))


def pair_swaps(near: Neighbourhood, *, count: int) -> list[Swap]:
    """Return the ``count`` best exchanges of one chosen for one other column.

    Without column i the objective rises by b_i^2 / (2 V_ii), V the inverse on the chosen; the
    gradient and the Schur complement of column j move by what i had explained.
    """
    if not len(near.chosen) or not len(near.others):
        return []
    diagonal_K1 = near.inverse_KK.diagonal()[:, None]
    coefficient_K1 = near.coefficient_K[:, None]
    ratio_KC = near.explained_KC / diagonal_K1
    gradient_KC = near.gradient_C - coefficient_K1 * ratio_KC
    curvature_KC = near.explained_KC * ratio_KC
    curvature_KC += np.maximum(near.schur_CC.diagonal(), 1e-300)
    change_KC = 0.5 * (coefficient_K1**2 / diagonal_K1 - gradient_KC**2 / curvature_KC)
    change_KC[near.units.always_U[near.chosen]] = np.inf
    flat = change_KC.ravel()
    best = [int(flat.argmin())] if count == 1 else flat.argsort(kind="stable")[:count].tolist()
    found = [divmod(at, change_KC.shape[1]) for at in best]
    return [
        Swap(near.chosen[[i]], near.others[[j]], float(change_KC[i, j]))
        for i, j in found
        if change_KC[i, j] < np.inf
    ]


def block_swaps(near: Neighbourhood, values_U: Floats, *, most: int) -> Iterator[Swap]:
    """Yield exchanges of the c worst chosen for the c best others, c = 1 .. most.

    Units of several columns also pair their ``most`` worst with each of the ``most`` best.
    """
    free = near.chosen[~near.units.always_U[near.chosen]]
    worst = free[np.argsort(values_U[free], kind="stable")]
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


def _nested(near: Neighbourhood, worst: Ints, best: Ints) -> Iterator[Swap]:
    """Exchange the first c of two lists for every c, from one factor of the longest."""
    if not len(worst):
        return
    gone = near.chosen.searchsorted(worst)
    most = len(best)
    factor = factorise(near.inverse_KK[gone[:, None], gone])
    joined = np.empty((most, most + 1), order="F")
    joined[:, 0] = near.coefficient_K[gone]
    joined[:, 1:] = near.explained_KC[gone, :most]
    joined = forward(factor, joined)
    # Row c of every array is the exchange of c + 1; what is not in it is an identity's.
    in_cm = np.tri(most)
    in_cmm = in_cm[:, :, None] * in_cm[:, None, :]
    moved_cm = joined[:, 0] * in_cm
    across_cmm = joined[:, 1:] * in_cmm
    gradient_cm = near.gradient_C[:most] * in_cm - (moved_cm[:, None, :] @ across_cmm)[:, 0]
    schur_cmm = near.schur_CC[:most, :most] * in_cmm + across_cmm.transpose(0, 2, 1) @ across_cmm
    diagonal_cm = schur_cmm.reshape(most, -1)[:, :: most + 1]
    diagonal_cm *= 1.0 + _LIFT
    diagonal_cm += 1.0 - in_cm + _TINY
    solved_cm = np.linalg.solve(schur_cmm, gradient_cm[:, :, None])[:, :, 0]
    change_c = 0.5 * ((moved_cm * moved_cm).sum(1) - (gradient_cm * solved_cm).sum(1))
    for at, change in enumerate(change_c.tolist()):
        yield Swap(worst[: at + 1], best[: at + 1], change)


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
    return Swap(leaving, coming, 0.5 * float(left @ moved - gain))
