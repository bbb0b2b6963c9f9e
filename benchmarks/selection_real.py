"""Public data sets in cross-validation: best subsets beside lasso, the full model and abess.

python -m benchmarks.selection --section real --json

Rossi (lifelines), GBSG2 and veteran (scikit-survival), breast cancer and diabetes (scikit-learn).
lifelines, scikit-survival and abess are no dependencies of the package: what is not installed is
named in one sentence and left out.

Dimension key: N rows, P columns.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LassoCV, LinearRegression, LogisticRegression, LogisticRegressionCV
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold, StratifiedKFold

from lfm4ads.selection import BestSubsetClassifier, BestSubsetCox, BestSubsetRegressor
from lfm4ads.selection.survival import Survival, concordance

Doubles = npt.NDArray[np.float64]
_SETS = ("rossi", "gbsg2", "veteran", "breast_cancer", "diabetes")
_NEEDS = {"rossi": "lifelines", "gbsg2": "sksurv", "veteran": "sksurv"}
_FIGURES = {"linear": "R2", "logistic": "deviance a row", "cox": "C-index"}


@dataclass(frozen=True)
class RealSet:
    """Rows of one set, columns standardised by the folds' training rows."""

    model: str
    matrix_NP: Doubles
    y: Doubles
    """(N,), or (N, 2) times and events."""


@dataclass(frozen=True)
class Scored:
    """A solver on one fold."""

    score: float
    size: int


def main(words: list[str]) -> list[dict[str, Any]]:
    """Return one object a set: the mean figure and the mean size of every solver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setups", nargs="*", default=list(_SETS), choices=list(_SETS))
    parser.add_argument("--folds", type=int, default=5)
    options = parser.parse_args(words)
    found: list[dict[str, Any]] = []
    for name in options.setups:
        if name in _NEEDS and find_spec(_NEEDS[name]) is None:
            print(f"{name} is left out: install {_NEEDS[name]} to run it", file=sys.stderr)
            continue
        found.append({"setup": name} | _run(_load(name), folds=options.folds))
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return found


def _load(name: str) -> RealSet:
    match name:
        case "breast_cancer":
            data: Any = load_breast_cancer()
            return RealSet("logistic", data.data, data.target.astype(float))
        case "diabetes":
            data: Any = load_diabetes()
            return RealSet("linear", data.data, data.target)
        case "rossi":
            table = import_module("lifelines.datasets").load_rossi()
            y = table[["week", "arrest"]].to_numpy(float)
            return RealSet("cox", table.drop(columns=["week", "arrest"]).to_numpy(float), y)
        case _:
            loaders = import_module("sksurv.datasets")
            load = loaders.load_gbsg2 if name == "gbsg2" else loaders.load_veterans_lung_cancer
            table, labels = load()
            coded = import_module("sksurv.preprocessing").OneHotEncoder().fit_transform(table)
            event, time = labels.dtype.names
            y = np.c_[labels[time], labels[event]].astype(float)
            return RealSet("cox", coded.to_numpy(float), y)


def _run(real: RealSet, *, folds: int) -> dict[str, Any]:
    solvers = _solvers(real.model)
    splitter: Any = KFold if real.model == "linear" else StratifiedKFold
    strata = real.y[:, 1] if real.model == "cox" else real.y
    splits = splitter(folds, shuffle=True, random_state=0).split(real.matrix_NP, strata)
    scores: dict[str, list[Scored]] = {name: [] for name in solvers}
    for train, test in splits:
        mean, scale = real.matrix_NP[train].mean(0), real.matrix_NP[train].std(0)
        matrix_NP = (real.matrix_NP - mean) / np.where(scale > 0, scale, 1.0)
        for name, fit in solvers.items():
            coefficients = fit(matrix_NP[train], real.y[train])
            predictor_N = matrix_NP[test] @ coefficients[:-1] + coefficients[-1]
            score = _score(real.model, predictor_N, real.y[test])
            scores[name].append(Scored(score, int(np.count_nonzero(coefficients[:-1]))))
    figures = {
        name: {
            "score": statistics.mean(one.score for one in some),
            "size": statistics.mean(one.size for one in some),
        }
        for name, some in scores.items()
    }
    rows, columns = real.matrix_NP.shape
    return {"rows": rows, "columns": columns, "figure": _FIGURES[real.model]} | figures


def _score(model: str, predictor_N: Doubles, y: Doubles) -> float:
    match model:
        case "linear":
            return 1.0 - float(((y - predictor_N) ** 2).sum() / ((y - y.mean()) ** 2).sum())
        case "logistic":
            return 2 * log_loss(y, 1 / (1 + np.exp(-np.clip(predictor_N, -30, 30))))
        case _:
            return concordance(predictor_N, Survival(y[:, 0], y[:, 1]))


Fit = Callable[[Doubles, Doubles], Doubles]
"""Return coefficients (P + 1,), the intercept last."""


def _fitter(make: Callable[[], Any]) -> Fit:
    def fit(X: Doubles, y: Doubles) -> Doubles:
        found = make().fit(X, y)
        intercept = np.ravel(getattr(found, "intercept_", 0.0))[0]
        return np.r_[np.ravel(found.coef_), intercept]

    return fit


def _solvers(model: str) -> dict[str, Fit]:
    abess: Any = import_module("abess") if find_spec("abess") else None
    if abess is None:
        print("abess is not installed and left out: pip install abess", file=sys.stderr)
    ours: dict[str, Any] = {
        "linear": BestSubsetRegressor,
        "logistic": BestSubsetClassifier,
        "cox": BestSubsetCox,
    }
    found = {
        "ours_ebic": _fitter(lambda: ours[model](criterion="ebic")),
        "ours_cv": _fitter(lambda: ours[model](criterion="cv", random_state=0)),
    }
    match model:
        case "linear":
            found |= {"full": _fitter(LinearRegression), "lasso": _fitter(lambda: LassoCV(cv=5))}
            peer = abess and abess.LinearRegression
        case "logistic":
            words: dict[str, Any] = {"l1_ratios": (1.0,), "use_legacy_attributes": False}
            found["full"] = _fitter(lambda: LogisticRegression(C=1e6, max_iter=10_000))
            found["lasso"] = _fitter(
                lambda: LogisticRegressionCV(solver="liblinear", cv=5, **words)
            )
            peer = abess and abess.LogisticRegression
        case _:
            if find_spec("sksurv") is not None:
                found |= {"full": _sksurv_full, "lasso": _coxnet}
            peer = abess and abess.CoxPHSurvivalAnalysis
    if peer:
        found["abess"] = _fitter(lambda: peer(ic_type="ebic"))
    return found


def _survival(y: Doubles) -> Any:
    pairs = list(zip(y[:, 1] > 0, y[:, 0], strict=True))
    return np.array(pairs, dtype=[("event", bool), ("time", float)])


def _sksurv_full(X: Doubles, y: Doubles) -> Doubles:
    peer = import_module("sksurv.linear_model").CoxPHSurvivalAnalysis(ties="efron")
    return np.r_[peer.fit(X, _survival(y)).coef_, 0.0]


def _coxnet(X: Doubles, y: Doubles) -> Doubles:
    """Return the lasso of the penalty whose C-index in five folds is the best."""
    face = import_module("sksurv.linear_model").CoxnetSurvivalAnalysis
    whole = face(l1_ratio=1.0).fit(X, _survival(y))
    scores = np.zeros(len(whole.alphas_))
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(X, y[:, 1]):
        path = face(l1_ratio=1.0, alphas=whole.alphas_).fit(X[train], _survival(y[train]))
        held = Survival(y[test, 0], y[test, 1])
        scores[: path.coef_.shape[1]] += [
            concordance(X[test] @ beta, held) for beta in path.coef_.T
        ]
    return np.r_[whole.coef_[:, int(np.argmax(scores))], 0.0]
