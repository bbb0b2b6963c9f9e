"""Exchanges of a chosen column for any other, however little it promises beside the chosen.

A column nearly the same as a chosen one has no slope next to it, so it is not among the likely ones
that splicing looks at; in place of the chosen one it may still be the better of the two.

Dimension key: P candidate columns, K chosen columns, C other columns.
"""

import numpy as np

from lfm4ads.selection.newton import invert
from lfm4ads.selection.problem import Problem
from lfm4ads.selection.sacrifice import sacrifices
from lfm4ads.selection.solver import Solution, SolverOptions
from lfm4ads.selection.swap import Pairs, Swap, best_pairs
from lfm4ads.selection.units import Units

_TRIALS = 4
_GAIN = 1e-9


def replace_any(
    problem: Problem, units: Units, solution: Solution, options: SolverOptions
) -> Solution:
    """Return the solution after all exchanges of single columns that lower its objective.

    Groups, fits that are sure of most rows, and problems that do not know all second derivatives at
    the price of a pass, are left as they are.
    """
    while True:
        better = _first_better(problem, units, solution, options)
        if better is None:
            return solution
        solution = better


def _first_better(
    problem: Problem, units: Units, at: Solution, options: SolverOptions
) -> Solution | None:
    if not units.plain or units.num_units <= len(at.units) + options.num_others:
        return None
    if problem.is_steep(at.fit):
        return None
    target = at.fit.objective - _GAIN * (1 + abs(at.fit.objective))
    for swap in _swaps(problem, units, at):
        kept = np.setdiff1d(at.units, swap.leaving)
        chosen = np.union1d(kept, swap.coming)
        fit = problem.fit(chosen, start=at.fit, target=target)
        if fit.objective < target:
            values_U = sacrifices(problem, units, fit, correction=options.correction, within=None)
            return Solution(chosen, fit, values_U, at.steps + 1, at.stop, at.monotone)
    return None


def _swaps(problem: Problem, units: Units, at: Solution) -> list[Swap]:
    across_PK = problem.across(at.fit)
    if across_PK is None:
        return []
    slopes = problem.slopes(at.fit, columns_M=None)
    inverse_KK = invert(across_PK[at.units])
    explained_KP = inverse_KK @ across_PK.T
    schur_P = slopes.curvature_M - (across_PK.T * explained_KP).sum(0)
    is_other_U = ~units.banned_U
    is_other_U[at.units] = False
    others = np.flatnonzero(is_other_U)
    pairs = Pairs(
        at.units,
        others,
        at.fit.coefficients_K,
        inverse_KK.diagonal(),
        slopes.gradient_M[others],
        schur_P[others],
        explained_KP[:, others],
    )
    # Predictions are guesses: one of no change at all may still turn out to be a gain.
    swaps = best_pairs(pairs, always_U=units.always_U, count=_TRIALS)
    return [swap for swap in swaps if swap.change < 0.25 * swap.rise]
