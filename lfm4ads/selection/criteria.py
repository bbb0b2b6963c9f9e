"""What a column must earn: prices of information criteria.

Prices are per column; what is counted as a candidate is a unit (a column or a group).
"""

import math
from dataclasses import dataclass
from typing import Literal

Criterion = Literal["aic", "bic", "ebic", "gic", "cv"]


@dataclass(frozen=True)
class Criteria:
    """Information criteria of one fit; smaller is better."""

    aic: float
    bic: float
    ebic: float
    gic: float


def price(criterion: Criterion, *, num_rows: float, num_units: int) -> float:
    """Return the deviance one column must take off.

    ``num_rows`` is the sum of weights, or the events of a Cox model.
    """
    log_rows = math.log(max(num_rows, 1.0))
    log_units = math.log(max(num_units, 1))
    match criterion:
        case "aic":
            return 2.0
        case "bic":
            return log_rows
        case "ebic":
            return log_rows + 2 * log_units
        case "gic":
            return log_units * math.log(max(log_rows, 1.0))
        case "cv":
            raise ValueError("cross-validation has no price; it measures held-out loss")


def measure_criteria(
    deviance: float, *, num_columns: int, num_rows: float, num_units: int
) -> Criteria:
    """Return all four criteria of a fit with ``num_columns`` columns."""

    def measured(criterion: Criterion) -> float:
        return deviance + num_columns * price(criterion, num_rows=num_rows, num_units=num_units)

    return Criteria(measured("aic"), measured("bic"), measured("ebic"), measured("gic"))
