"""The best subset of a given size: primal-dual active sets, then splicing.

Each step fits the chosen units and chooses the largest sacrifices anew. That map may cycle, also
through more than two sets, so every visited set is remembered, the first repeat ends the loop, and
the visited set of the lowest loss is kept. Splicing then takes exchanges that lower the loss and
nothing else, so it ends too.

Dimension key: U units.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lfm4ads.selection.columns import Floats, Ints
from lfm4ads.selection.problem import SMOOTHING, Fit, Problem
from lfm4ads.selection.sacrifice import SizeCorrection, sacrifices
from lfm4ads.selection.swap import (
    Neighbourhood,
    Swap,
    block_swaps,
    guess,
    open_neighbourhood,
    pair_swaps,
)
from lfm4ads.selection.units import Units, pick_largest

Algorithm = Literal["pdas+splicing", "pdas", "splicing", "pure"]
Stop = Literal["fixed", "repeat", "cap"]
_LEAST_GAIN = 1e-9
"""Relative fall of the loss that is more than rounding."""
_TRIALS = 4
"""Predicted exchanges of pairs that are fitted, for curved losses."""
_SLACK, _SLACK_PART = 1.0, 0.25
"""Expected rise worth a fit: a guess may be off by it, and by a part of what those leaving had."""
_NEAR = 2
"""Sizes from which a start needs no smoothing, unless it is sure of most rows."""


@dataclass(frozen=True, kw_only=True)
class SolverOptions:
    """How a set of a given size is looked for."""

    algorithm: Algorithm = "pdas+splicing"
    """``pure`` is the published iteration: it stops at a fixed point or after a two-cycle."""
    max_steps: int = 20
    """Active-set steps at one size."""
    max_swap: int = 5
    """Units exchanged at once."""
    num_others: int = 32
    """Units outside that exchanges are tried with."""
    correction: SizeCorrection = "null"
    num_likely: int = 128
    """Units looked at between passes over all columns of a wide curved problem."""


@dataclass(frozen=True)
class Solution:
    """A chosen set of one size."""

    units: Ints
    fit: Fit
    values_U: Floats
    """Sacrifices at the fit: where the next size starts."""
    steps: int
    stop: Stop
    monotone: bool
    """Whether no step raised the loss."""


@dataclass
class _Walk:
    """Sets seen at one size."""

    best: tuple[Ints, Fit] | None = None
    steps: int = 0
    stop: Stop = "cap"
    monotone: bool = True


def null_solution(problem: Problem, units: Units, options: SolverOptions) -> Solution:
    """Return the fit of the always-included units alone, from which every path starts."""
    chosen = np.flatnonzero(units.always_U)
    fit = problem.fit(units.columns(chosen), start=None)
    values_U = sacrifices(problem, units, fit, correction=options.correction, within=None)
    return Solution(chosen, fit, values_U, 0, "fixed", monotone=True)


def solve(
    problem: Problem, units: Units, *, size: int, start: Solution, options: SolverOptions
) -> Solution:
    """Return the best set of ``size`` units found from an earlier solution of any size."""
    if options.algorithm == "pure":
        return _pure(problem, units, size=size, start=start, options=options)
    walk = _Walk()
    smooth = problem.ridged(SMOOTHING * problem.num_rows)
    near = abs(size - len(start.units)) <= _NEAR and not problem.is_steep(start.fit)
    if smooth is problem or near or options.algorithm == "pdas":
        return _search(problem, units, walk, start, size=size, options=options)
    start = _search(smooth, units, walk, start, size=size, options=options)
    return _search(problem, units, walk, start, size=size, options=options)


def _search(
    problem: Problem,
    units: Units,
    walk: _Walk,
    start: Solution,
    *,
    size: int,
    options: SolverOptions,
) -> Solution:
    everything = problem.wide_is_cheap or units.num_units <= options.num_likely + size
    chosen, fit, values_U = pick_largest(start.values_U, size), start.fit, start.values_U
    while True:
        within = None if everything else _likely(values_U, chosen, options)
        chosen, fit, values_U = _settle(
            problem, units, walk, (chosen, fit), within=within, options=options
        )
        if within is None:
            break
        # One pass over all columns certifies the set: none outside may want in.
        values_U = sacrifices(problem, units, fit, correction=options.correction, within=None)
        outside = np.setdiff1d(pick_largest(values_U, size), np.union1d(chosen, within))
        if not len(outside) or walk.steps >= options.max_steps:
            break
    return Solution(chosen, fit, values_U, walk.steps, walk.stop, walk.monotone)


def _likely(values_U: Floats, chosen: Ints, options: SolverOptions) -> Ints:
    count = max(options.num_likely, 4 * len(chosen))
    return np.union1d(pick_largest(values_U, min(count, len(values_U))), chosen)


def _settle(
    problem: Problem,
    units: Units,
    walk: _Walk,
    start: tuple[Ints, Fit],
    *,
    within: Ints | None,
    options: SolverOptions,
) -> tuple[Ints, Fit, Floats]:
    """Walk active sets among the units ``within``, then splice from the best."""
    chosen, warm = start
    if options.algorithm == "splicing":
        fit = problem.fit(units.columns(chosen), start=warm)
        values_U = sacrifices(problem, units, fit, correction=options.correction, within=within)
        walk.stop = walk.stop if walk.steps else "fixed"
        found = chosen, fit, values_U
    else:
        found = _walk(problem, units, walk, start, within=within, options=options)
        if options.algorithm == "pdas":
            return found
    return _splice(problem, units, walk, found, within=within, options=options)


def _walk(
    problem: Problem,
    units: Units,
    walk: _Walk,
    start: tuple[Ints, Fit],
    *,
    within: Ints | None,
    options: SolverOptions,
) -> tuple[Ints, Fit, Floats]:
    chosen, fit = start
    seen: set[bytes] = set()
    best: tuple[Ints, Fit, Floats] | None = None
    last = np.inf
    for _ in range(options.max_steps):
        seen.add(chosen.tobytes())
        fit = problem.fit(units.columns(chosen), start=fit)
        walk.steps += 1
        walk.monotone &= fit.objective <= last + _LEAST_GAIN * (1 + abs(fit.objective))
        last = fit.objective
        values_U = sacrifices(problem, units, fit, correction=options.correction, within=within)
        if best is None or fit.objective < best[1].objective:
            best = chosen, fit, values_U
        following = pick_largest(values_U, len(chosen))
        if following.tobytes() in seen:
            walk.stop = "fixed" if np.array_equal(following, chosen) else "repeat"
            break
        chosen = following
    assert best is not None
    return best


def _splice(
    problem: Problem,
    units: Units,
    walk: _Walk,
    start: tuple[Ints, Fit, Floats],
    *,
    within: Ints | None,
    options: SolverOptions,
) -> tuple[Ints, Fit, Floats]:
    chosen, fit, values_U = start
    while True:
        better = _first_better(problem, units, (chosen, fit), values_U, options)
        if better is None:
            return chosen, fit, values_U
        chosen, fit = better
        values_U = sacrifices(problem, units, fit, correction=options.correction, within=within)
        walk.steps += 1


def _first_better(
    problem: Problem,
    units: Units,
    at: tuple[Ints, Fit],
    values_U: Floats,
    options: SolverOptions,
) -> tuple[Ints, Fit] | None:
    """Return the first exchange that, fitted, lowers the objective."""
    chosen, fit = at
    if len(chosen) >= units.max_size or not len(chosen) or fit.separated:
        return None
    near = open_neighbourhood(
        problem, units, fit, chosen=chosen, values_U=values_U, num_others=options.num_others
    )
    gain = _LEAST_GAIN * (1 + abs(fit.objective))
    target = fit.objective - gain
    swaps = _worth_fitting(problem, fit, near, values_U, gain=gain, most=options.max_swap)
    starts = [fit] * len(swaps)
    if units.plain and not problem.is_quadratic and not problem.is_steep(fit):
        guesses = [guess(near, swap) for swap in swaps]
        hopeful = problem.least(guesses) <= target
        swaps = [swap for swap, keep in zip(swaps, hopeful, strict=True) if keep]
        starts = [one.fit for one, keep in zip(guesses, hopeful, strict=True) if keep]
    for swap, start in zip(swaps, starts, strict=True):
        following = _exchange(chosen, swap, units.num_units)
        trial = problem.fit(units.columns(following), start=start, target=target)
        if trial.objective < target:
            return following, trial
    return None


def _worth_fitting(
    problem: Problem,
    fit: Fit,
    near: Neighbourhood,
    values_U: Floats,
    *,
    gain: float,
    most: int,
) -> list[Swap]:
    """Return exchanges to fit, the most promising first.

    A predicted change is a fact for quadratic losses. For others it is a guess, wrong by most where
    rows are all but certain: there splicing's own exchanges are fitted in any case.
    """
    pairs = (
        pair_swaps(near, count=1 if problem.is_quadratic else _TRIALS) if near.units.plain else []
    )
    blocks = list(block_swaps(near, values_U, most=most))
    if problem.is_quadratic:
        swaps = [swap for swap in (*pairs, *blocks) if swap.change < -gain]
        return sorted(swaps, key=lambda swap: swap.change)[:_TRIALS]
    likely = [swap for swap in pairs if _is_open(swap)]
    known = {(int(swap.leaving[0]), int(swap.coming[0])) for swap in likely}
    blocks = blocks[:most] if problem.is_steep(fit) else [swap for swap in blocks if _is_open(swap)]
    for swap in blocks:
        single = len(swap.leaving) == len(swap.coming) == 1
        if not single or (int(swap.leaving[0]), int(swap.coming[0])) not in known:
            likely.append(swap)
    return sorted(likely, key=lambda swap: swap.change)


def _is_open(swap: Swap) -> bool:
    """Return whether an exchange may pay for all that its guess says."""
    return swap.change < min(_SLACK, _SLACK_PART * swap.rise)


def _exchange(chosen: Ints, swap: Swap, num_units: int) -> Ints:
    inside_U = np.zeros(num_units, bool)
    inside_U[chosen] = True
    inside_U[swap.leaving] = False
    inside_U[swap.coming] = True
    return np.flatnonzero(inside_U)


def _pure(
    problem: Problem, units: Units, *, size: int, start: Solution, options: SolverOptions
) -> Solution:
    """Iterate as published: the last set is returned, whatever its loss."""
    chosen, fit, values_U = pick_largest(start.values_U, size), start.fit, start.values_U
    before: Ints | None = None
    for step in range(1, options.max_steps + 1):
        fit = problem.fit(units.columns(chosen), start=fit)
        values_U = sacrifices(problem, units, fit, correction="none", within=None)
        following = pick_largest(values_U, size)
        if np.array_equal(following, chosen):
            return Solution(chosen, fit, values_U, step, "fixed", monotone=True)
        if before is not None and np.array_equal(following, before):
            return Solution(chosen, fit, values_U, step, "repeat", monotone=False)
        before, chosen = chosen, following
    fit = problem.fit(units.columns(chosen), start=fit)
    return Solution(chosen, fit, values_U, options.max_steps, "cap", monotone=False)
