"""Newton's method with step halving, for losses whose Hessian is small enough to factorise.

Warm and cold starts must end in the same minimum, or criteria compare noise: the loop ends on the
Newton decrement and then takes one more step, so what is left is of its square.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg.lapack import get_lapack_funcs

from lfm4ads.selection.columns import Floats

# The wrappers of scipy.linalg check for ten times as long as matrices of this size take.
_potrf, _potrs, _potri, _trtrs = get_lapack_funcs(("potrf", "potrs", "potri", "trtrs"))
_TOLERANCE = 1e-10
_MAX_STEPS = 100
_MAX_HALVINGS = 40


@dataclass(frozen=True)
class Point:
    """A loss at a place, with its first and second derivatives; ridge included."""

    at_K: Floats
    objective: float
    gradient_K: Floats
    hessian_KK: Floats
    state: Any


def factorise(matrix_KK: Floats) -> Floats:
    """Return the lower Cholesky factor, of a slightly lifted matrix where it is singular."""
    if not len(matrix_KK):
        return np.zeros((0, 0))
    factor, failed = _potrf(matrix_KK, lower=1)
    lift = 1e-12 * (float(matrix_KK.diagonal().max()) or 1.0) if failed else 0.0
    while failed:
        factor, failed = _potrf(matrix_KK + lift * np.eye(len(matrix_KK)), lower=1)
        lift *= 10
    return factor


def solve(factor_KK: Floats, right: Floats) -> Floats:
    """Return the solution of L L' x = right for a factor of :func:`factorise`."""
    if not len(right):
        return right
    return _potrs(factor_KK, right, lower=1)[0]


def forward(factor_KK: Floats, right_KM: Floats) -> Floats:
    """Return L^-1 B for a lower factor."""
    return _trtrs(factor_KK, right_KM, lower=1)[0]


def invert(matrix_KK: Floats) -> Floats:
    """Return the inverse of a symmetric positive matrix, lifted as in :func:`factorise`."""
    if not len(matrix_KK):
        return np.zeros((0, 0))
    lower_KK, _ = _potri(factorise(matrix_KK), lower=1)
    # The factor came with zeros above its diagonal, and they are still there.
    whole_KK = lower_KK + lower_KK.T
    whole_KK.flat[:: len(whole_KK) + 1] *= 0.5
    return whole_KK


def minimise(
    evaluate: Callable[[Floats], Point],
    start_K: Floats,
    *,
    target: float = np.inf,
    perfect: float = -np.inf,
) -> Point:
    """Return the point where the gradient of a convex loss vanishes.

    Near the minimum half the decrement is what is left to gain; where even twice the decrement
    would not reach ``target`` the search is given up. Under ``perfect`` it ends: a loss that falls
    to its infimum only at infinity is followed no further.
    """
    point = evaluate(start_K)
    for _ in range(_MAX_STEPS):
        step_K = -solve(factorise(point.hessian_KK), point.gradient_K)
        decrement = float(-point.gradient_K @ step_K)
        if point.objective - 2 * decrement > target or point.objective < perfect:
            return point
        following = _descend(evaluate, point, step_K, decrement)
        small = decrement <= _TOLERANCE * (1.0 + abs(point.objective))
        if following is None or (small and following.objective > point.objective):
            return point
        point = following
        if small:
            return point
    return point


def _descend(
    evaluate: Callable[[Floats], Point], point: Point, step_K: Floats, decrement: float
) -> Point | None:
    """Return the first of the halved steps that lowers the loss enough, or none."""
    length = 1.0
    # A step this small changes the loss by less than it is rounded to.
    rounding = 1e-13 * (1.0 + abs(point.objective))
    for _ in range(_MAX_HALVINGS):
        trial = evaluate(point.at_K + length * step_K)
        if trial.objective <= point.objective - 1e-4 * length * decrement + rounding:
            return trial
        length /= 2
    return None
