"""How often the best subset of a size is found: against all subsets of 15 columns.

python -m benchmarks.selection --section exhaustive --json [--replications 20]

``pure`` is the published iteration, ``pdas`` the one that keeps the best set it visits, and
``pdas+splicing`` the default. All start cold, at the size itself.
"""

import argparse
import itertools
import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from lfm4ads.selection.problem import Problem
from lfm4ads.selection.recipe import Recipe, draw
from lfm4ads.selection.solver import Algorithm, SolverOptions, null_solution, solve
from lfm4ads.selection.task import Task, open_task
from lfm4ads.selection.units import build_units

SIZE = 3
_COLUMNS = 15
_HARD = Recipe(
    model="linear",
    rows=150,
    columns=_COLUMNS,
    true_columns=SIZE,
    design="autoregressive",
    rho=0.9,
    signal_ratio=1.0,
    mixed_signs=True,
)
SETUPS: dict[str, Recipe] = {
    "linear": _HARD,
    "logistic": replace(_HARD, model="logistic"),
    "logistic-1percent": replace(_HARD, model="logistic", rows=2000, positive_ratio=0.01),
    "cox": replace(_HARD, model="cox"),
    "cox-ties": replace(_HARD, model="cox", time_levels=8),
}
ALGORITHMS: tuple[Algorithm, ...] = ("pure", "pdas", "pdas+splicing")


def main(words: list[str]) -> list[dict[str, Any]]:
    """Return one object a set-up: of how many draws each algorithm found the optimum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setups", nargs="*", default=list(SETUPS), choices=list(SETUPS))
    parser.add_argument("--replications", type=int, default=20)
    options = parser.parse_args(words)
    found: list[dict[str, Any]] = []
    for name in options.setups:
        line = _setup(SETUPS[name], replications=options.replications)
        found.append({"setup": f"{name}-p{_COLUMNS}-k{SIZE}"} | line)
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return found


def _setup(recipe: Recipe, *, replications: int) -> dict[str, Any]:
    equal: dict[Algorithm, int] = dict.fromkeys(ALGORITHMS, 0)
    caught = 0
    for seed in range(1, replications + 1):
        drawn = draw(recipe, seed=seed)
        task = Task(
            model=recipe.model,
            matrix=drawn.matrix_NP,
            y_N=drawn.y_N,
            weight_N=np.ones(recipe.rows),
            event_N=drawn.event_N if recipe.model == "cox" else None,
        )
        problem = open_task(task).problem
        best = _best(problem)
        hits: dict[Algorithm, bool] = {
            one: _objective(problem, one) <= best + 1e-7 * abs(best) for one in ALGORITHMS
        }
        for one, hit in hits.items():
            equal[one] += int(hit)
        caught += int(hits["pdas+splicing"] and not hits["pure"])
    return {"replications": replications, "equal": equal, "missed_by_pure_and_caught": caught}


def _best(problem: Problem) -> float:
    every = itertools.combinations(range(_COLUMNS), SIZE)
    return min(problem.fit(np.array(one), start=None).objective for one in every)


def _objective(problem: Problem, algorithm: Algorithm) -> float:
    units, options = build_units(_COLUMNS), SolverOptions(algorithm=algorithm)
    start = null_solution(problem, units, options)
    return solve(problem, units, size=SIZE, start=start, options=options).fit.objective
