"""Best subsets as scikit-learn estimators: linear, Poisson, logistic and Cox.

Dimension key: N rows, P columns.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from scipy.special import expit
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import validate_data

from lfm4ads.core.errors import UserError
from lfm4ads.selection.columns import Floats
from lfm4ads.selection.estimator import (
    BestSubset,
    read_offset,
    read_rows,
    read_weights,
    take_rows,
)
from lfm4ads.selection.risk import Ties
from lfm4ads.selection.survival import Survival, concordance, read_survival
from lfm4ads.selection.task import Task


@dataclass(kw_only=True, eq=False, repr=False)
class BestSubsetRegressor(RegressorMixin, BestSubset):
    """Linear or Poisson regression on the best subset of columns."""

    loss: Literal["squared", "poisson"] = "squared"
    fit_intercept: bool = True

    def __sklearn_tags__(self) -> Any:
        """Say that a Poisson model takes counts only."""
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = self.loss == "poisson"
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> Self:
        """Choose columns of X (n, p) for y (n,); weights count rows, offsets add to log rates."""
        X, y = read_rows(self, X, y, y_numeric=True)
        weight_N = read_weights(sample_weight, X)
        offset_N = read_offset(offset, len(y))
        target_N = np.asarray(y, dtype=np.float64)
        if offset_N is not None and self.loss == "squared":
            target_N, offset_N = target_N - offset_N, None
        rows = np.flatnonzero(weight_N)
        task = Task(
            model="linear" if self.loss == "squared" else "poisson",
            matrix=take_rows(X, rows),
            y_N=target_N[rows],
            weight_N=weight_N[rows],
            offset_N=None if offset_N is None else offset_N[rows],
            intercept=self.fit_intercept,
            ridge=self.ridge,
        )
        return self.choose(task, None)

    def predict(self, X: Any) -> Floats:
        """Return the expected y (n,), without offset."""
        predictor_N = self.predictor(X)
        return predictor_N if self.loss == "squared" else np.exp(predictor_N)


@dataclass(kw_only=True, eq=False, repr=False)
class BestSubsetClassifier(ClassifierMixin, BestSubset):
    """Logistic regression of two classes on the best subset of columns."""

    fit_intercept: bool = True

    def __sklearn_tags__(self) -> Any:
        """Say that two classes are taken, not more."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> Self:
        """Choose columns of X (n, p) for the classes y (n,); weights count rows."""
        X, y = read_rows(self, X, y)
        check_classification_targets(y)
        weight_N = read_weights(sample_weight, X)
        rows = np.flatnonzero(weight_N)
        self.classes_, label_N = np.unique(np.asarray(y)[rows], return_inverse=True)
        if len(self.classes_) > 2:
            kind = type_of_target(y, input_name="y", raise_unknown=True)
            raise UserError(
                "Only binary classification is supported. The type of the target is"
                f" {kind}, {len(self.classes_)} classes; give two"
            )
        if len(self.classes_) < 2:
            raise UserError(
                "the labels hold one class only; a classifier needs rows of two classes"
            )
        offset_N = read_offset(offset, len(weight_N))
        task = Task(
            model="logistic",
            matrix=take_rows(X, rows),
            y_N=label_N.astype(np.float64),
            weight_N=weight_N[rows],
            offset_N=None if offset_N is None else offset_N[rows],
            intercept=self.fit_intercept,
            ridge=self.ridge,
        )
        self.choose(task, label_N)
        self.coef_ = self.coef_[None, :]
        self.intercept_ = np.array([self.intercept_])
        return self

    def decision_function(self, X: Any) -> Floats:
        """Return log odds (n,), without offset."""
        return self.predictor(X)

    def predict_proba(self, X: Any) -> Floats:
        """Return the probability of either class (n, 2)."""
        positive_N = expit(self.predictor(X))
        return np.column_stack([1.0 - positive_N, positive_N])

    def predict(self, X: Any) -> Any:
        """Return the likelier class (n,)."""
        positive_N = self.predictor(X) > 0
        return self.classes_[positive_N.astype(np.int64)]


@dataclass(kw_only=True, eq=False, repr=False)
class BestSubsetCox(BestSubset):
    """Cox proportional hazards on the best subset of columns."""

    ties: Ties = "efron"

    def __sklearn_tags__(self) -> Any:
        """Say that times are needed."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose columns of X (n, p) for times and events; see ``read_survival`` for y."""
        X = validate_data(
            self, X, accept_sparse=("csr", "csc"), dtype=np.float64, ensure_min_samples=2
        )
        if y is None:
            raise UserError("BestSubsetCox requires y to be passed, but the target y is None")
        survival = read_survival(y)
        if len(survival.time_N) != X.shape[0]:
            raise UserError(
                f"X has {X.shape[0]} rows and y {len(survival.time_N)}: inconsistent numbers of"
                " samples; give one time a row"
            )
        weight_N = read_weights(sample_weight, X)
        rows = np.flatnonzero(weight_N)
        task = Task(
            model="cox",
            matrix=take_rows(X, rows),
            y_N=survival.time_N[rows],
            event_N=survival.event_N[rows],
            weight_N=weight_N[rows],
            ties=self.ties,
            ridge=self.ridge,
        )
        self.choose(task, survival.event_N[rows].astype(np.int64))
        self.intercept_ = 0.0
        return self

    def predict(self, X: Any) -> Floats:
        """Return the log hazard relative to a row of zeros (n,): larger is sooner."""
        return self.predictor(X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return Harrell's concordance index."""
        survival: Survival = read_survival(y)
        weight_N = None if sample_weight is None else np.asarray(sample_weight, np.float64)
        return concordance(self.predict(X), survival, weight_N=weight_N)
