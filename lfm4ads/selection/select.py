"""Choose a subset for a task in memory: screen, search over sizes, refit.

Dimension key: P columns, K chosen columns, U units.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from lfm4ads.core.errors import UserError
from lfm4ads.selection.columns import Floats, Ints, Scale
from lfm4ads.selection.criteria import Criteria, Criterion
from lfm4ads.selection.crossval import CrossValidation, HeldOut, one_error_size
from lfm4ads.selection.path import Path, Range, Search, default_largest, search_sizes
from lfm4ads.selection.problem import Problem
from lfm4ads.selection.solver import Solution, SolverOptions, Stop, null_solution
from lfm4ads.selection.task import Coefficients, Task, open_task, refit, to_raw
from lfm4ads.selection.units import Units, build_units, narrow_units, pick_largest

_RUNS_OFF = 0.01
"""Part of a coefficient by which it moves without the tiny ridge where nothing else holds it."""


@dataclass(frozen=True, kw_only=True)
class SelectOptions:
    """How the subset and its size are chosen."""

    size: int | None = None
    """Units to choose; the criterion chooses where it is not given."""
    smallest: int = 0
    largest: int | None = None
    search: Search = "sequential"
    criterion: Criterion = "ebic"
    rule: Literal["best", "one_error"] = "best"
    """Under cross-validation: the best size, or the smallest within one standard error of it."""
    groups: Any = None
    always: Any = ()
    screening: int | None = None
    """Units kept by their marginal sacrifice before the search."""
    solver: SolverOptions = field(default_factory=SolverOptions)


@dataclass(frozen=True)
class PathRow:
    """One size that was tried."""

    size: int
    units: tuple[Any, ...]
    """Labels of the chosen units."""
    coefficients: Coefficients
    """In raw units."""
    loss: float
    deviance: float
    criteria: Criteria
    held_out: HeldOut | None
    steps: int
    stop: Stop
    monotone: bool
    separated: bool


@dataclass(frozen=True)
class Selection:
    """The chosen subset and how it was found."""

    coefficients: Coefficients
    chosen: PathRow
    rows: tuple[PathRow, ...]
    """Sizes tried, ascending."""
    criterion: str
    unbounded_K: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Chosen columns whose coefficients only the ridge floor keeps finite; none for files."""


def select(
    task: Task,
    options: SelectOptions,
    *,
    folds: Sequence[tuple[Ints, Ints]] = (),
    start_columns: Ints | None = None,
) -> Selection:
    """Return the best subset of a task; ``folds`` are (training, held-out) rows."""
    opened = open_task(task)
    units = build_units(
        opened.columns.num_columns,
        groups=options.groups,
        always=options.always,
        constant_P=opened.columns.scale.constant_P,
    )
    num_columns = opened.columns.num_columns
    kept_P = screen(opened.problem, units, options, start_columns=start_columns)
    if len(kept_P) < num_columns:
        task = replace(task, matrix=task.matrix[:, kept_P])
        opened, units = open_task(task), narrow_units(units, kept_P)
    validation = None
    if options.criterion == "cv" and options.size is None:
        validation = CrossValidation(task, units, options.solver, folds=folds)
    start = None
    if start_columns is not None and len(start_columns):
        local = np.flatnonzero(np.isin(kept_P, start_columns))
        start = _warm(opened.problem, units, local)
    path = Path(opened.problem, units, options.solver, start=start)
    found = conclude(path, options, scale=opened.columns.raw_scale, validation=validation)
    exact = refit(task, found.coefficients.columns_K, near=found.coefficients)
    unbounded_K = _unbounded(found, exact)
    if found.chosen.separated:
        # Rows that are all certain already are followed no further, so nothing has moved.
        every_K = found.coefficients.columns_K
        found = replace(found, unbounded_K=unbounded_K if len(unbounded_K) else every_K)
    else:
        found = replace(found, coefficients=exact, unbounded_K=unbounded_K)
    return found if len(kept_P) == num_columns else widen(found, kept_P)


def _unbounded(found: Selection, exact: Coefficients) -> Ints:
    """Return the columns that run off as soon as the ridge of the search is gone.

    Where the likelihood has a maximum that ridge moves coefficients by 1e-7 of themselves; in a
    direction in which it only rises, each Newton step without it adds about 1 to the log odds.
    """
    moved_K = np.abs(exact.values_K - found.coefficients.values_K)
    return exact.columns_K[moved_K > _RUNS_OFF * np.abs(exact.values_K)]


def screen(
    problem: Problem, units: Units, options: SelectOptions, *, start_columns: Ints | None = None
) -> Ints:
    """Return the columns of the units with the largest marginal sacrifices, ascending."""
    if options.screening is None or options.screening >= units.num_units:
        return np.arange(len(units.unit_P))
    values_U = null_solution(problem, units, options.solver).values_U
    if start_columns is not None:
        values_U[np.unique(units.unit_P[start_columns])] = np.inf
    return np.sort(units.columns(pick_largest(values_U, options.screening)))


def conclude(
    path: Path, options: SelectOptions, *, scale: Scale, validation: CrossValidation | None
) -> Selection:
    """Search over sizes and return what was found, with the coefficients of the search."""
    size = _choose(path, options, validation)
    rows = tuple(
        _row(path, scale, tried, validation)
        for tried in sorted(path.solutions)
        if tried <= path.limit
    )
    chosen = next(row for row in rows if row.size == size)
    name = options.criterion if options.size is None else "size"
    return Selection(chosen.coefficients, chosen, rows, name)


def widen(found: Selection, kept_P: Ints) -> Selection:
    """Name columns as they were before screening."""

    def back(one: Coefficients) -> Coefficients:
        return replace(one, columns_K=kept_P[one.columns_K])

    rows = tuple(replace(row, coefficients=back(row.coefficients)) for row in found.rows)
    chosen = next(row for row in rows if row.size == found.chosen.size)
    return Selection(
        back(found.coefficients), chosen, rows, found.criterion, kept_P[found.unbounded_K]
    )


def _choose(path: Path, options: SelectOptions, validation: CrossValidation | None) -> int:
    most = path.units.max_size
    if options.size is not None:
        if not path.smallest <= options.size <= most:
            raise UserError(
                f"size is {options.size}; it must be from {path.smallest} (always included) to"
                f" {most} (columns or groups that are not constant)"
            )
        path.at(options.size)
        return min(options.size, path.limit)
    largest = options.largest or default_largest(
        num_rows=path.problem.num_rows, num_units=path.units.num_units
    )
    sizes = Range(max(options.smallest, path.smallest), max(min(largest, most), path.smallest))
    if sizes.smallest > sizes.largest:
        raise UserError(
            f"min_size is {sizes.smallest} but at most {sizes.largest} can be chosen; lower it"
        )
    if validation is None:
        name = options.criterion
        return search_sizes(
            path, sizes, search=options.search, score=lambda k: getattr(path.criteria(k), name)
        )
    best = search_sizes(path, sizes, search=options.search, score=lambda k: validation.at(k).mean)
    if options.rule == "best":
        return best
    return one_error_size({k: validation.at(k) for k in path.solutions if k <= path.limit})


def _row(path: Path, scale: Scale, size: int, validation: CrossValidation | None) -> PathRow:
    found: Solution = path.solutions[size]
    return PathRow(
        size,
        tuple(path.units.labels_U[found.units].tolist()),
        to_raw(found.fit, scale),
        found.fit.loss,
        path.problem.deviance(found.fit.loss),
        path.criteria(size),
        None if validation is None else validation.at(size),
        found.steps,
        found.stop,
        found.monotone,
        found.fit.separated,
    )


def _warm(problem: Problem, units: Units, columns_K: Ints) -> Solution:
    """Return an earlier answer as the place to start from."""
    chosen = np.unique(units.unit_P[columns_K])
    held = replace(units, always_U=np.isin(np.arange(units.num_units), chosen))
    found = null_solution(problem, held, SolverOptions())
    first_U: Floats = np.minimum(found.values_U, 1e300)
    first_U[units.always_U] = np.inf
    return replace(found, values_U=first_U)
