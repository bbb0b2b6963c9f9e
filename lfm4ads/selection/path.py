"""Which size: sequential, coarse-then-fine, golden-section and elbow search over fits of all sizes.

Every size is fitted once, warm from the nearest smaller size tried (else the nearest larger), and
remembered. Past a size whose loss has no finite minimum larger ones are not tried.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lfm4ads.selection.criteria import Criteria, measure_criteria
from lfm4ads.selection.problem import Problem, criterion_deviance
from lfm4ads.selection.replace import replace_any
from lfm4ads.selection.solver import Solution, SolverOptions, null_solution, solve
from lfm4ads.selection.units import Units, pick_largest

Search = Literal["sequential", "grid", "golden", "gpdas"]
_GOLDEN = 0.618
_ELBOW = 1e-4
_ELBOW_STEPS = 20
_NEARBY = 1
"""Sizes on either side of the chosen one that it is solved again from."""
_SWEEP = 3
"""Bracket width at which golden section gives way to trying what is left."""


class Path:
    """Fits of one problem by size."""

    def __init__(
        self,
        problem: Problem,
        units: Units,
        options: SolverOptions,
        *,
        start: Solution | None = None,
    ) -> None:
        self.problem = problem
        self.units = units
        self._options = options
        self.solutions: dict[int, Solution] = {}
        self._criteria: dict[int, Criteria] = {}
        self._null = null_solution(problem, units, options)
        self._start = start
        self.smallest = len(self._null.units)
        self.limit = units.max_size
        """Largest size there is any sense in trying; falls to the first separated one."""

    def at(self, size: int) -> Solution:
        """Return the fit of a size, made at the first call."""
        size = min(max(size, self.smallest), self.limit)
        if size not in self.solutions:
            found = self._solve(size)
            self.solutions[size] = found
            if found.fit.separated and size > self.smallest:
                self.limit = min(self.limit, size)
        return self.solutions[size]

    def criteria(self, size: int) -> Criteria:
        """Return the information criteria of a size."""
        solution = self.at(size)
        found = self._criteria.get(len(solution.units))
        if found is None:
            fit = solution.fit
            found = self._criteria[len(solution.units)] = measure_criteria(
                criterion_deviance(self.problem, fit),
                num_columns=len(fit.columns_K),
                num_rows=self.problem.num_rows,
                num_units=self.units.num_units,
            )
        return found

    def improve(self, size: int) -> bool:
        """Look again for the set of a size; return whether there is a better one.

        From near sizes that propose another set for it, then by exchanges with any column: a local
        optimum of the exchanges among likely columns may be left by a start from elsewhere.
        """
        best = self.at(size)
        seen = {best.units.tobytes()}
        if self._options.algorithm == "pure" or best.fit.separated or size == self.smallest:
            return False
        for other in sorted(self.solutions, key=lambda tried: abs(tried - size)):
            if abs(other - size) > _NEARBY:
                break
            start = self.solutions[other]
            proposed = pick_largest(start.values_U, size).tobytes()
            if proposed in seen:
                continue
            seen.add(proposed)
            found = solve(self.problem, self.units, size=size, start=start, options=self._options)
            if found.fit.objective < best.fit.objective and not found.fit.separated:
                best = found
        best = replace_any(self.problem, self.units, best, self._options)
        if best is self.solutions[size]:
            return False
        self.solutions[size] = best
        self._criteria.pop(size, None)
        return True

    def _solve(self, size: int) -> Solution:
        if size == self.smallest:
            return self._null
        smaller = [tried for tried in self.solutions if tried < size]
        larger = [tried for tried in self.solutions if tried > size]
        if smaller:
            start = self.solutions[max(smaller)]
        elif self._start is not None:
            start = self._start
        else:
            start = self.solutions[min(larger)] if larger else self._null
        return solve(self.problem, self.units, size=size, start=start, options=self._options)


Score = Callable[[int], float]


@dataclass(frozen=True)
class Range:
    """Sizes that may be tried, both ends included."""

    smallest: int
    largest: int


def search_sizes(path: Path, sizes: Range, *, search: Search, score: Score) -> int:
    """Return the size of the smallest score; every size tried is left in the path."""
    match search:
        case "sequential":
            best = _best(path, range(sizes.smallest, sizes.largest + 1), score)
        case "grid":
            best = _grid(path, sizes, score)
        case "golden":
            best = _golden(path, sizes, score)
        case "gpdas":
            return _elbow(path, sizes)
    return _improved(path, sizes, best, score)


def _improved(path: Path, sizes: Range, best: int, score: Score) -> int:
    """Look again at the chosen size; if that found a better set, also at those next to it."""
    while path.improve(best):
        for near in (best - 1, best + 1):
            if near in path.solutions:
                path.improve(near)
        most = min(sizes.largest, path.limit)
        tried = [size for size in path.solutions if sizes.smallest <= size <= most]
        following = _best(path, sorted(tried), score)
        if following == best:
            break
        best = following
    return best


def _best(path: Path, sizes: range | list[int], score: Score) -> int:
    tried: dict[int, float] = {}
    for size in sizes:
        path.at(size)
        if size > path.limit:
            break
        tried[size] = score(size)
    return min(tried, key=lambda size: (tried[size], size)) if tried else path.limit


def _grid(path: Path, sizes: Range, score: Score) -> int:
    """Try sizes in steps that grow by the golden ratio, then fill in around the best."""
    coarse, step = [sizes.smallest], 1.0
    while coarse[-1] < sizes.largest:
        coarse.append(min(sizes.largest, coarse[-1] + round(step)))
        step /= _GOLDEN
    best = _best(path, coarse, score)
    while True:
        at = coarse.index(best) if best in coarse else -1
        left = coarse[max(at - 1, 0)]
        right = min(coarse[min(at + 1, len(coarse) - 1)], path.limit)
        missing = [size for size in range(left, right + 1) if size not in coarse]
        if not missing or at < 0:
            return best
        coarse = sorted({*coarse, *missing})
        best = _best(path, [size for size in coarse if size <= path.limit], score)


def _golden(path: Path, sizes: Range, score: Score) -> int:
    """Shrink a bracket as if the score had one valley, then try all that is left."""
    low, high = sizes.smallest, sizes.largest
    while high - low > _SWEEP:
        width = round(_GOLDEN * (high - low))
        inner = sorted({high - width, low + width})
        path.at(inner[0])
        path.at(inner[-1])
        if path.limit < high:
            high = max(path.limit, low)
            continue
        if score(inner[0]) <= score(inner[-1]):
            high = inner[-1]
        else:
            low = inner[0]
    # Coarse probes may have been judged from poor fits: all that were tried stand for the answer,
    # and the score may have more valleys than one: the answer is at least the floor of its own.
    around = set(range(low, high + 1))
    while True:
        tried = {*around, *(size for size in path.solutions if size <= path.limit)}
        within = [size for size in tried if sizes.smallest <= size <= sizes.largest]
        best = _best(path, sorted(within), score)
        around = set(range(max(best - 1, sizes.smallest), min(best + 1, path.limit) + 1))
        if around <= {*within, sizes.largest + 1}:
            return best


def _elbow(path: Path, sizes: Range) -> int:
    """Search the elbow of the loss, as published: the last size tried is the answer.

    The answer ignores the criterion, is often too small for linear and too large for weak models,
    and is here to compare with earlier software.
    """
    null = max(path.at(path.smallest).fit.loss, 1e-300)

    def loss(size: int) -> float:
        return path.at(size).fit.loss / null

    low, high, middle = max(sizes.smallest, 1), sizes.largest, sizes.smallest
    for _ in range(_ELBOW_STEPS):
        middle = round(low + _GOLDEN * (high - low))
        left = abs(loss(low) - loss(middle)) / max(middle - low, 1)
        right = abs(loss(high) - loss(middle)) / max(high - middle, 1)
        if left > _ELBOW and right < _ELBOW:
            high = middle
        elif left > _ELBOW and right > _ELBOW:
            low = middle
        else:
            high, low = middle, max(sizes.smallest, 1)
        if high - low <= 1:
            break
        falls = abs(loss(max(middle - 1, 0)) - loss(middle)) > _ELBOW
        if falls and abs(loss(middle + 1) - loss(middle)) < _ELBOW / 2:
            break
    return min(middle, path.limit)


def default_largest(*, num_rows: float, num_units: int) -> int:
    """Return n / (log log n log p): sizes up to which sets can be told apart."""
    log_log = max(float(np.log(max(np.log(max(num_rows, 3.0)), np.e))), 1.0)
    most = num_rows / (log_log * max(float(np.log(max(num_units, 2))), 1.0))
    return max(1, min(num_units, int(most)))
