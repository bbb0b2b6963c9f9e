"""Best subset selection beside abess and lasso on the same data in the same run.

python -m benchmarks.selection --json [--setups linear-1000-20 ...] [--replications 20] [--lasso 2]
    [--first-seed 1]
python -m benchmarks.selection --section exhaustive|real|scale --json [words of the section]

abess (and scikit-survival for the lasso of Cox models) are installed by hand where this runs; they
are no dependency of the package. Times are CPU seconds of one thread. The last line printed is one
JSON object: ``setups``, one object each, and ``ratios``, the median over replications of our time
over that of abess. ``better`` and ``worse`` count the draws in which EBIC of our set is below and
above that of abess's, both fitted by the same code, and ``behind`` names the draws where our set
has fewer true or more useless columns. Other sections are in modules of their own.

Dimension key: N rows, P columns.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: one thread for everybody
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from sklearn.metrics import r2_score, roc_auc_score

from benchmarks import selection_exact, selection_real, selection_scale
from benchmarks.selection_peers import Fitted, fit_abess, fit_lasso, target
from lfm4ads.selection import BestSubsetClassifier, BestSubsetCox, BestSubsetRegressor
from lfm4ads.selection.columns import Ints
from lfm4ads.selection.criteria import price
from lfm4ads.selection.path import default_largest
from lfm4ads.selection.problem import criterion_deviance
from lfm4ads.selection.recipe import Drawn, Recipe, draw, draw_again
from lfm4ads.selection.survival import Survival, concordance
from lfm4ads.selection.task import Task, open_task

SETUPS: dict[str, Recipe] = {
    "linear-1000-20": Recipe(model="linear", rows=1000, columns=20, true_columns=4),
    "linear-500-2000": Recipe(model="linear", rows=500, columns=2000, true_columns=40),
    "linear-1000-1000": Recipe(model="linear", rows=1000, columns=1000, true_columns=40),
    "linear-1000-10000": Recipe(model="linear", rows=1000, columns=10_000, true_columns=40),
    "linear-ar9-snr1": Recipe(
        model="linear",
        rows=1000,
        columns=1000,
        true_columns=10,
        design="autoregressive",
        rho=0.9,
        signal_ratio=1.0,
        mixed_signs=True,
    ),
    "logistic-1000-20": Recipe(model="logistic", rows=1000, columns=20, true_columns=4),
    "logistic-500-2000": Recipe(model="logistic", rows=500, columns=2000, true_columns=10),
    "logistic-1000-1000": Recipe(model="logistic", rows=1000, columns=1000, true_columns=20),
    "logistic-1000-10000": Recipe(model="logistic", rows=1000, columns=10_000, true_columns=20),
    "logistic-ar9-snr1": Recipe(
        model="logistic",
        rows=1000,
        columns=1000,
        true_columns=5,
        design="autoregressive",
        rho=0.9,
        signal_ratio=1.0,
        mixed_signs=True,
    ),
    "logistic-1percent": Recipe(
        model="logistic",
        rows=10_000,
        columns=200,
        true_columns=5,
        signal_ratio=2.0,
        mixed_signs=True,
        positive_ratio=0.01,
    ),
    "cox-300-20": Recipe(model="cox", rows=300, columns=20, true_columns=4),
    "cox-ties-300-200": Recipe(
        model="cox",
        rows=300,
        columns=200,
        true_columns=4,
        signal_ratio=2.0,
        mixed_signs=True,
        time_levels=20,
    ),
    "cox-300-1000": Recipe(model="cox", rows=300, columns=1000, true_columns=5),
}
SECTIONS = {
    "exhaustive": selection_exact.main,
    "real": selection_real.main,
    "scale": selection_scale.main,
}
_SAME = 1e-6
"""Difference of EBIC that is rounding."""


@dataclass(frozen=True)
class Outcome:
    """One fit of one solver."""

    seconds: float
    true_positives: int
    false_positives: int
    score: float
    """R2, AUC or C-index on other rows of the same truth."""
    columns: Ints


def main() -> None:
    """Run the set-ups and print one line each, then the whole as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the last line as JSON")
    parser.add_argument("--setups", nargs="*", default=list(SETUPS))
    parser.add_argument("--replications", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1, help="seeds are this one and the next")
    parser.add_argument("--lasso", type=int, default=0, help="replications with a lasso too")
    parser.add_argument("--section", choices=list(SECTIONS), help="another part, with own words")
    options, rest = parser.parse_known_args()
    if options.section:
        own = [
            word for word in sys.argv[1:] if word not in ("--json", "--section", options.section)
        ]
        found = SECTIONS[options.section](own)
        print(json.dumps({"section": options.section, "setups": found}))
        return
    if rest:
        parser.error(f"there is no option {rest[0]}")
    for name in options.setups:
        if name not in SETUPS:
            parser.error(f"there is no set-up {name}; there are {', '.join(SETUPS)}")
    if find_spec("abess") is None:
        sys.exit("abess is not installed and nothing can be compared: pip install abess")
    warnings.simplefilter("ignore")  # solvers warn of separable data, which is the point
    seeds = range(options.first_seed, options.first_seed + options.replications)
    found = [
        line
        for name in options.setups
        for line in _setup(name, seeds=seeds, num_lasso=options.lasso)
    ]
    ratios = {f"{line['setup']}/{line['search']}": line["ratio"] for line in found}
    if options.json:
        print(json.dumps({"setups": found, "ratios": ratios}))


def _setup(name: str, *, seeds: range, num_lasso: int) -> list[dict[str, Any]]:
    recipe = SETUPS[name]
    first = draw(recipe, seed=seeds[0])
    _ours(recipe, first, "golden")  # imports and first calls are nobody's time
    _theirs(recipe, first, "golden")
    lines = []
    for search in ("sequential", "golden"):
        ours, peers, lassos = [], [], []
        for seed in seeds:
            drawn = draw(recipe, seed=seed)
            fresh = draw_again(recipe, drawn, seed=10_000 + seed)
            ours.append(_outcome(recipe, drawn, fresh, lambda d: _ours(recipe, d, search)))  # noqa: B023 - called at once
            peers.append(_outcome(recipe, drawn, fresh, lambda d: _theirs(recipe, d, search)))  # noqa: B023 - called at once
            if seed < seeds[0] + num_lasso and search == "golden":
                lassos.append(_outcome(recipe, drawn, fresh, lambda d: fit_lasso(recipe, d)))
        line = {"setup": name, "search": search, "replications": len(seeds)}
        line["first_seed"] = seeds[0]
        line |= _summary("ours", ours) | _summary("abess", peers) | _summary("lasso", lassos)
        pairs = zip(ours, peers, strict=True)
        line["ratio"] = statistics.median(mine.seconds / theirs.seconds for mine, theirs in pairs)
        line |= _compared(recipe, seeds, ours, peers)
        line["true_positives"], line["false_positives"] = (
            line["ours_true_positives"],
            line["ours_false_positives"],
        )
        print(json.dumps(line), file=sys.stderr, flush=True)
        lines.append(line)
    return lines


def _summary(name: str, outcomes: list[Outcome]) -> dict[str, float]:
    if not outcomes:
        return {}
    return {
        f"{name}_seconds": statistics.median(one.seconds for one in outcomes),
        f"{name}_true_positives": statistics.mean(one.true_positives for one in outcomes),
        f"{name}_false_positives": statistics.mean(one.false_positives for one in outcomes),
        f"{name}_score": statistics.mean(one.score for one in outcomes),
    }


def _outcome(recipe: Recipe, drawn: Drawn, fresh: Drawn, fit: Callable[[Drawn], Fitted]) -> Outcome:
    started = time.process_time()
    coefficients_P = fit(drawn)
    seconds = time.process_time() - started
    chosen = set(np.flatnonzero(coefficients_P).tolist())
    truth = set(drawn.true_K.tolist())
    predictor_N = fresh.matrix_NP @ coefficients_P
    match recipe.model:
        case "linear":
            score = r2_score(fresh.y_N - fresh.y_N.mean(), predictor_N - predictor_N.mean())
        case "cox":
            score = concordance(predictor_N, Survival(fresh.y_N, fresh.event_N))
        case _:
            score = roc_auc_score(fresh.y_N, predictor_N)
    columns = np.flatnonzero(coefficients_P)
    return Outcome(seconds, len(chosen & truth), len(chosen - truth), float(score), columns)


def _compared(
    recipe: Recipe, seeds: range, ours: list[Outcome], peers: list[Outcome]
) -> dict[str, Any]:
    """Return how EBIC of our sets compares with that of the other's."""
    found: dict[str, Any] = {"better": 0, "worse": 0, "behind": []}
    for seed, mine, theirs in zip(seeds, ours, peers, strict=True):
        if np.array_equal(mine.columns, theirs.columns):
            continue
        drawn = draw(recipe, seed=seed)
        gap = _ebic(recipe, drawn, mine.columns) - _ebic(recipe, drawn, theirs.columns)
        found["better"] += gap < -_SAME
        found["worse"] += gap > _SAME
        fewer = mine.true_positives - theirs.true_positives
        more = mine.false_positives - theirs.false_positives
        if fewer < 0 or more > 0:
            behind = {"seed": seed, "true_positives": fewer, "false_positives": more}
            found["behind"].append(behind | {"ebic": round(gap, 3)})
    return found


def _ebic(recipe: Recipe, drawn: Drawn, columns_K: Ints) -> float:
    task = Task(
        model=recipe.model,
        matrix=drawn.matrix_NP[:, columns_K],
        y_N=drawn.y_N,
        weight_N=np.ones(recipe.rows),
        event_N=drawn.event_N if recipe.model == "cox" else None,
    )
    problem = open_task(task).problem
    fit = problem.fit(np.arange(len(columns_K)), start=None)
    each = price("ebic", num_rows=problem.num_rows, num_units=recipe.columns)
    return criterion_deviance(problem, fit) + each * len(columns_K)


def _largest(recipe: Recipe) -> int:
    """Return the largest size both may try; rare positives tell no more than there are of them."""
    rows = recipe.rows * (recipe.positive_ratio or 1.0)
    most = default_largest(num_rows=rows, num_units=recipe.columns)
    return min(recipe.columns, max(most, recipe.true_columns + 10))


def _ours(recipe: Recipe, drawn: Drawn, search: Any) -> Fitted:
    face: Any = {
        "linear": BestSubsetRegressor,
        "logistic": BestSubsetClassifier,
        "cox": BestSubsetCox,
    }[recipe.model]
    estimator = face(search=search, criterion="ebic", max_size=_largest(recipe))
    return estimator.fit(drawn.matrix_NP, target(recipe, drawn)).coef_.ravel()


def _theirs(recipe: Recipe, drawn: Drawn, search: str) -> Fitted:
    return fit_abess(recipe, drawn, sequential=search == "sequential", largest=_largest(recipe))


if __name__ == "__main__":
    main()
