"""Row losses as functions of the linear predictor, with two derivatives.

Bernoulli with the logit link and Poisson with the log link; both are canonical, so the second
derivative is the variance and holds no label.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lfm4ads.selection.columns import Floats

Family = Literal["logistic", "poisson"]
_MAX_LOG_RATE = 500.0


@dataclass(frozen=True)
class RowTerms:
    """Loss of all rows together, and per row its first and second derivative (N,).

    Of T predictors at once: losses (T,) and derivatives (T, N).
    """

    loss: Any
    slope_N: Floats
    curvature_N: Floats


def row_terms(family: Family, *, predictor_N: Floats, y_N: Floats, weight_N: Floats) -> RowTerms:
    """Return the negative log-likelihood and its derivatives in the linear predictor."""
    match family:
        case "logistic":
            # log(1 + e^x) - y x, without overflow and without cancellation where y is certain.
            small_N = np.exp(-np.abs(predictor_N))
            inverse_N = 1.0 / (1.0 + small_N)
            other_N = small_N * inverse_N
            mean_N = np.where(predictor_N >= 0, inverse_N, other_N)
            signed_N = predictor_N - 2.0 * (y_N * predictor_N)
            loss_N = np.maximum(signed_N, 0.0)
            loss_N += np.log1p(small_N)
            curvature_N = other_N
            curvature_N *= inverse_N
        case "poisson":
            mean_N = np.exp(np.minimum(predictor_N, _MAX_LOG_RATE))
            loss_N = mean_N - y_N * predictor_N
            curvature_N = mean_N
    return RowTerms(loss_N @ weight_N, weight_N * (mean_N - y_N), weight_N * curvature_N)


def saturated_loss(family: Family, *, y_N: Floats, weight_N: Floats) -> float:
    """Return the loss of a model that knows every label: where deviance is zero."""
    if family == "logistic":
        return 0.0
    positive_N = np.where(y_N > 0, y_N, 1.0)
    return float(weight_N @ (y_N - y_N * np.log(positive_N)))


def link(family: Family, mean: float) -> float:
    """Return the linear predictor of a mean: where the intercept starts."""
    match family:
        case "logistic":
            return float(np.log(mean) - np.log1p(-mean))
        case "poisson":
            return float(np.log(mean))
