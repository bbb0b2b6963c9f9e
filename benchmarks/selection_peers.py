"""Solvers that best subset selection is measured beside: abess and the lasso.

Dimension key: N rows, P columns.
"""

from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LassoCV, LogisticRegressionCV

from lfm4ads.selection.recipe import Drawn, Recipe
from lfm4ads.selection.survival import Survival, concordance

Fitted = npt.NDArray[np.float64]


def fit_abess(recipe: Recipe, drawn: Drawn, *, sequential: bool, largest: int) -> Fitted:
    """Return the coefficients of abess (P,), its size by its own EBIC."""
    abess = import_module("abess")  # a peer, installed only where this is run
    face = {
        "linear": abess.LinearRegression,
        "logistic": abess.LogisticRegression,
        "cox": abess.CoxPHSurvivalAnalysis,
    }[recipe.model]
    if sequential:
        estimator = face(path_type="seq", support_size=range(largest + 1), ic_type="ebic")
    else:
        estimator = face(path_type="gs", s_min=0, s_max=largest, ic_type="ebic")
    return np.asarray(estimator.fit(drawn.matrix_NP, target(recipe, drawn)).coef_).ravel()


def fit_lasso(recipe: Recipe, drawn: Drawn) -> Fitted:
    """Return the coefficients of the lasso (P,), its penalty by held-out rows."""
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


def target(recipe: Recipe, drawn: Drawn) -> Any:
    """Return labels (N,), or times and events (N, 2), as estimators take them."""
    return np.c_[drawn.y_N, drawn.event_N] if recipe.model == "cox" else drawn.y_N
