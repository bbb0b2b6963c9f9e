"""Best subset selection beside abess and lasso on the same data in the same run.

python -m benchmarks.selection --json [--setups linear-1000-20 ...] [--replications 20] [--lasso 2]
    [--first-seed 1]
python -m benchmarks.selection --section exhaustive|real|scale --json [words of the section]

abess (and scikit-survival for the lasso of Cox models) are installed by hand where this runs; they
are no dependency of the package. Times are CPU seconds of one thread. The last line printed is one
JSON object: ``setups``, one object each, and ``ratios``, the median over replications of our time
over that of abess. Other sections are in modules of their own.

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
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LassoCV, LogisticRegressionCV
from sklearn.metrics import r2_score, roc_auc_score

from benchmarks import selection_exact, selection_real, selection_scale
from lfm4ads.selection import BestSubsetClassifier, BestSubsetCox, BestSubsetRegressor
from lfm4ads.selection.path import default_largest
from lfm4ads.selection.recipe import Drawn, Recipe, draw, draw_again
from lfm4ads.selection.survival import Survival, concordance

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
Fitted = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """One fit of one solver."""

    seconds: float
    true_positives: int
    false_positives: int
    score: float
    """R2, AUC or C-index on other rows of the same truth."""


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
    _abess(recipe, first, "golden")
    lines = []
    for search in ("sequential", "golden"):
        ours, peers, lassos = [], [], []
        for seed in seeds:
            drawn = draw(recipe, seed=seed)
            fresh = draw_again(recipe, drawn, seed=10_000 + seed)
            ours.append(_outcome(recipe, drawn, fresh, lambda d: _ours(recipe, d, search)))  # noqa: B023 - called at once
            peers.append(_outcome(recipe, drawn, fresh, lambda d: _abess(recipe, d, search)))  # noqa: B023 - called at once
            if seed < seeds[0] + num_lasso and search == "golden":
                lassos.append(_outcome(recipe, drawn, fresh, lambda d: _lasso(recipe, d)))
        line = {"setup": name, "search": search, "replications": len(seeds)}
        line["first_seed"] = seeds[0]
        line |= _summary("ours", ours) | _summary("abess", peers) | _summary("lasso", lassos)
        pairs = zip(ours, peers, strict=True)
        line["ratio"] = statistics.median(mine.seconds / theirs.seconds for mine, theirs in pairs)
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
    return Outcome(seconds, len(chosen & truth), len(chosen - truth), float(score))


def _largest(recipe: Recipe) -> int:
    most = default_largest(num_rows=recipe.rows, num_units=recipe.columns)
    return min(recipe.columns, max(most, recipe.true_columns + 10))


def _ours(recipe: Recipe, drawn: Drawn, search: Any) -> Fitted:
    face: Any = {
        "linear": BestSubsetRegressor,
        "logistic": BestSubsetClassifier,
        "cox": BestSubsetCox,
    }[recipe.model]
    estimator = face(search=search, criterion="ebic", max_size=_largest(recipe))
    return estimator.fit(drawn.matrix_NP, _target(recipe, drawn)).coef_.ravel()


def _abess(recipe: Recipe, drawn: Drawn, search: str) -> Fitted:
    abess = import_module("abess")  # a peer, installed only where this is run
    face = {
        "linear": abess.LinearRegression,
        "logistic": abess.LogisticRegression,
        "cox": abess.CoxPHSurvivalAnalysis,
    }[recipe.model]
    most = _largest(recipe)
    if search == "sequential":
        estimator = face(path_type="seq", support_size=range(most + 1), ic_type="ebic")
    else:
        estimator = face(path_type="gs", s_min=0, s_max=most, ic_type="ebic")
    return np.asarray(estimator.fit(drawn.matrix_NP, _target(recipe, drawn)).coef_).ravel()


def _lasso(recipe: Recipe, drawn: Drawn) -> Fitted:
    match recipe.model:
        case "linear":
            return LassoCV(cv=5).fit(drawn.matrix_NP, drawn.y_N).coef_
        case "cox":
            return _coxnet(drawn)
        case _:
            # Its annotations know neither of the two words it asks for.
            words: dict[str, Any] = {"l1_ratios": (1.0,), "use_legacy_attributes": False}
            lasso = LogisticRegressionCV(Cs=10, solver="liblinear", cv=5, **words)
            return lasso.fit(drawn.matrix_NP, drawn.y_N).coef_.ravel()


def _coxnet(drawn: Drawn) -> Fitted:
    peer = import_module("sksurv.linear_model")  # a peer, as above

    y = np.array(
        list(zip(drawn.event_N > 0, drawn.y_N + 1.0, strict=True)),
        dtype=[("e", bool), ("t", float)],
    )
    half = len(y) // 2
    path = peer.CoxnetSurvivalAnalysis(l1_ratio=1.0).fit(drawn.matrix_NP[:half], y[:half])
    held = Survival(drawn.y_N[half:], drawn.event_N[half:])
    scores = [concordance(drawn.matrix_NP[half:] @ beta, held) for beta in path.coef_.T]
    penalty = path.alphas_[int(np.argmax(scores))]
    final = peer.CoxnetSurvivalAnalysis(l1_ratio=1.0, alphas=[penalty]).fit(drawn.matrix_NP, y)
    return final.coef_.ravel()


def _target(recipe: Recipe, drawn: Drawn) -> Any:
    return np.c_[drawn.y_N, drawn.event_N] if recipe.model == "cox" else drawn.y_N


if __name__ == "__main__":
    main()
