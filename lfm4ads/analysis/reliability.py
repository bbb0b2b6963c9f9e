"""Does a predicted probability mean what it says: predicted and observed rate in equal bins.

Dimension key: N rows, B bins.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Bins of one arm's predictions for one task, from rare to likely."""

    task: str
    predicted_B: Array
    observed_B: Array
    rows_B: Array


def reliability(label_N: Array, *, logit_N: Array, task: str, num_bins: int = 12) -> Reliability:
    """Cut the rows, sorted by logit, into bins of (nearly) equally many; empty bins are dropped."""
    order_N = np.argsort(logit_N, kind="stable")
    chance_N = 1 / (1 + np.exp(-logit_N[order_N].astype(np.float64)))
    chances = [part for part in np.array_split(chance_N, num_bins) if part.size]
    labels = [part for part in np.array_split(label_N[order_N], num_bins) if part.size]
    return Reliability(
        task=task,
        predicted_B=np.array([part.mean() for part in chances]),
        observed_B=np.array([part.mean() for part in labels]),
        rows_B=np.array([part.size for part in chances]),
    )
