"""How much the loss would rise without a unit, or fall with it: the order PDAS chooses by.

A column's sacrifice is h (b + gamma)^2 / 2 with gamma = -g / h (Section 2 of arXiv 1709.06254). For
a unit of several columns h is the full block of the Hessian, b'Hb/2 inside and g'H^-1 g/2 outside:
the sum over its columns would count what they share more than once, and depend on how an embedding
is rotated.

Dimension key: P columns, U units, G units of one width M.
"""

from typing import Literal

import numpy as np

from lfm4ads.selection.columns import Floats, Ints
from lfm4ads.selection.problem import Fit, Problem
from lfm4ads.selection.units import Units

SizeCorrection = Literal["null", "width", "none"]
_BLOCK_UNITS = 4096


def sacrifices(
    problem: Problem, units: Units, fit: Fit, *, correction: SizeCorrection, within: Ints | None
) -> Floats:
    """Return the sacrifice of every unit (U,), or of those ``within``; others are -inf.

    Wider units gain more from noise. ``null`` takes off what a useless unit gains on average,
    ``width`` divides by the number of columns.
    """
    if units.plain:
        slopes = problem.slopes(fit, columns_M=within)
        held_P = np.zeros(units.num_units)
        held_P[fit.columns_K] = fit.coefficients_K
        whole_M = slopes.curvature_M * (held_P if within is None else held_P[within])
        whole_M -= slopes.gradient_M
        whole_M *= whole_M
        whole_M /= 2.0 * slopes.curvature_M
        values_U = whole_M
        if within is not None:
            values_U = np.full(units.num_units, -np.inf)
            values_U[within] = whole_M
    else:
        values_U = np.full(units.num_units, -np.inf)
        chosen = np.arange(units.num_units) if within is None else within
        _fill_groups(values_U, problem, units, fit, chosen)
        null_U = 0.5 * problem.noise(fit.loss) * units.width_U
        match correction:
            case "null":
                values_U -= null_U
            case "width":
                values_U /= units.width_U
            case "none":
                pass
    values_U[units.banned_U] = -np.inf
    values_U[units.always_U] = np.inf
    return values_U


def _fill_groups(values_U: Floats, problem: Problem, units: Units, fit: Fit, chosen: Ints) -> None:
    columns = np.sort(units.columns(chosen))
    slopes = problem.slopes(fit, columns_M=columns)
    gradient_P, held_P = np.zeros(len(units.unit_P)), np.zeros(len(units.unit_P))
    gradient_P[columns] = slopes.gradient_M
    held_P[fit.columns_K] = fit.coefficients_K
    for width in np.unique(units.width_U[chosen]):
        of_width = chosen[units.width_U[chosen] == width]
        for at in range(0, len(of_width), _BLOCK_UNITS):
            some = of_width[at : at + _BLOCK_UNITS]
            columns_GM = units.columns(some).reshape(len(some), width)
            block_GMM = problem.blocks(fit, columns_GM=columns_GM)
            # (b + gamma)' H (b + gamma) / 2 with gamma = -H^-1 g, one formula inside and outside.
            whole_GM = np.einsum("gij,gj->gi", block_GMM, held_P[columns_GM])
            whole_GM -= gradient_P[columns_GM]
            solved_GM = np.linalg.solve(block_GMM, whole_GM[..., None])[..., 0]
            values_U[some] = 0.5 * (whole_GM * solved_GM).sum(1)
