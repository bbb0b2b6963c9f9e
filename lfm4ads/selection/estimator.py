"""What all best-subset estimators share: parameters, the search, the path.

These classes inherit, against the rule of this repository, because scikit-learn's tools know an
estimator by its bases; what they do is in plain functions beside them.

Dimension key: N rows, P columns, K chosen columns.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.model_selection import KFold, StratifiedKFold, check_cv
from sklearn.utils.validation import (
    _check_sample_weight,  # pyright: ignore[reportPrivateUsage] - what scikit-learn's own use
    check_is_fitted,
    validate_data,
)

from lfm4ads.core.errors import UserError
from lfm4ads.selection.columns import Floats, Ints
from lfm4ads.selection.criteria import Criterion
from lfm4ads.selection.path import Search
from lfm4ads.selection.plot import plot_path
from lfm4ads.selection.sacrifice import SizeCorrection
from lfm4ads.selection.select import Selection, SelectOptions, select
from lfm4ads.selection.solver import Algorithm, SolverOptions
from lfm4ads.selection.task import Task


@dataclass(kw_only=True, eq=False, repr=False)
class BestSubset(SelectorMixin, BaseEstimator):
    """Parameters and answers of all best-subset estimators."""

    size: int | None = None
    """Columns (or groups) to choose; None lets the criterion choose."""
    min_size: int = 0
    max_size: int | None = None
    """Largest size tried; None is n / (log log n log p)."""
    search: Search = "sequential"
    criterion: Criterion = "ebic"
    cv: Any = 5
    """Folds, a splitter or an iterable of splits, for ``criterion="cv"``."""
    cv_rule: Literal["best", "one_error"] = "best"
    groups: Any = None
    """One label per column: columns of a label enter together."""
    group_correction: SizeCorrection = "null"
    always_include: Any = ()
    """Columns (or group labels) in every model."""
    screening: int | None = None
    """Columns (or groups) kept by marginal screening before the search."""
    ridge: float = 0.0
    """Per row, on standardised columns."""
    algorithm: Algorithm = "pdas+splicing"
    max_steps: int = 20
    warm_start: bool = False
    """Start from the columns that the last call of fit chose."""
    random_state: Any = None
    """Shuffles the folds."""

    def __sklearn_tags__(self) -> Any:
        """Say that sparse matrices are taken."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def get_path(self) -> list[dict[str, Any]]:
        """Return a dict for every size tried: loss, criteria, columns, how the search ended."""
        check_is_fitted(self)
        return [
            {
                "size": row.size,
                "units": row.units,
                "columns": row.coefficients.columns_K,
                "coefficients": row.coefficients.values_K,
                "intercept": row.coefficients.intercept,
                "loss": row.loss,
                "deviance": row.deviance,
                "aic": row.criteria.aic,
                "bic": row.criteria.bic,
                "ebic": row.criteria.ebic,
                "gic": row.criteria.gic,
                "cv": None if row.held_out is None else row.held_out.mean,
                "cv_error": None if row.held_out is None else row.held_out.error,
                "steps": row.steps,
                "stop": row.stop,
                "monotone": row.monotone,
                "separated": row.separated,
            }
            for row in self.selection_.rows
        ]

    def plot(self, *, figure: Any = None) -> Any:
        """Draw the coefficient path and the criterion over sizes; return the figure."""
        check_is_fitted(self)
        return plot_path(self.selection_, figure=figure)

    def _get_support_mask(self) -> Any:
        check_is_fitted(self)
        mask_P = np.zeros(self.coef_.size, bool)
        mask_P[self.selection_.coefficients.columns_K] = True
        return mask_P

    def choose(self, task: Task, strata_N: Any) -> Self:
        """Fit a task, whose rows all weigh something, and keep the answer."""
        folds: list[tuple[Ints, Ints]] = []
        if self.criterion == "cv" and self.size is None:
            folds = self._folds(task, strata_N)
        options = SelectOptions(
            size=self.size,
            smallest=self.min_size,
            largest=self.max_size,
            search=self.search,
            criterion=self.criterion,
            rule=self.cv_rule,
            groups=self.groups,
            always=self.always_include,
            screening=self.screening,
            solver=SolverOptions(
                algorithm=self.algorithm,
                max_steps=self.max_steps,
                correction=self.group_correction,
            ),
        )
        earlier = getattr(self, "selection_", None) if self.warm_start else None
        start = earlier.coefficients.columns_K if earlier is not None else None
        if start is not None and len(start) and start.max() >= task.matrix.shape[1]:
            start = None
        self.selection_: Selection = select(task, options, folds=folds, start_columns=start)
        found = self.selection_.coefficients
        self.coef_: Floats = np.zeros(task.matrix.shape[1])
        self.coef_[found.columns_K] = found.values_K
        self.intercept_: Any = found.intercept
        self.size_ = self.selection_.chosen.size
        self.separated_ = self.selection_.chosen.separated
        self.unbounded_: Ints = self.selection_.unbounded_K
        self.n_iter_ = max(1, *(row.steps for row in self.selection_.rows))
        return self

    def _folds(self, task: Task, strata_N: Any) -> list[tuple[Ints, Ints]]:
        if isinstance(self.cv, int):
            maker = KFold if strata_N is None else StratifiedKFold
            splitter: Any = maker(self.cv, shuffle=True, random_state=self.random_state)
        else:
            splitter = check_cv(self.cv)
        labels = np.zeros(len(task.y_N)) if strata_N is None else strata_N
        return list(splitter.split(np.zeros((len(labels), 1)), labels))

    def predictor(self, X: Any) -> Floats:
        """Return the linear predictor of rows (n,), without offset."""
        check_is_fitted(self)
        checked: Any = validate_data(
            self, X, accept_sparse=("csr", "csc"), reset=False, dtype=np.float64
        )
        columns_K = self.selection_.coefficients.columns_K
        values_K = self.selection_.coefficients.values_K
        return checked[:, columns_K] @ values_K + np.float64(np.ravel(self.intercept_)[0])


def read_rows(estimator: Any, X: Any, y: Any, *, y_numeric: bool = False) -> tuple[Any, Any]:
    """Return X (n, p) and y (n,) as scikit-learn's checks leave them.

    Plain finite arrays pass at once: with 20 columns those checks cost a fifth of the fit.
    """
    if _is_plain(X, ndim=2) and _is_plain(y, ndim=1) and len(X) == len(y) > 1 and X.shape[1]:
        estimator.n_features_in_ = X.shape[1]
        vars(estimator).pop("feature_names_in_", None)  # of an earlier fit
        return X, y
    checked: Any = validate_data(
        estimator,
        X,
        y,
        accept_sparse=("csr", "csc"),
        dtype=np.float64,
        y_numeric=y_numeric,
        ensure_min_samples=2,
    )
    return checked


def _is_plain(values: Any, *, ndim: int) -> bool:
    """Whether values are finite float64 in a numpy array of its own class; their sum tells."""
    if type(values) is not np.ndarray or values.dtype != np.float64 or values.ndim != ndim:
        return False
    return bool(np.isfinite(values.sum()))


def take_rows(values: Any, rows: Ints) -> Any:
    """Return some rows of a matrix or vector, itself where they are all."""
    return values if len(rows) == values.shape[0] else values[rows]


def read_weights(sample_weight: Any, X: Any) -> Floats:
    """Return the weights of rows (n,), ones by default."""
    if sample_weight is None:
        return np.ones(X.shape[0])
    weight_N = _check_sample_weight(sample_weight, X, dtype=np.float64)
    if weight_N.min() < 0:
        raise UserError(
            f"a sample_weight is {weight_N.min():g}; Negative weights are not supported, give"
            " zero or more"
        )
    return weight_N


def read_offset(offset: Any, num_rows: int) -> Floats | None:
    """Return the offsets of rows (n,), if there are any."""
    if offset is None:
        return None
    values = np.asarray(offset, dtype=np.float64)
    if values.shape != (num_rows,) or not np.isfinite(values).all():
        raise UserError(f"offset must hold {num_rows} finite numbers, one a row")
    return values
