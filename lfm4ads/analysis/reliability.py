"""Does a predicted probability mean what it says: predicted and observed rate in equal bins.

Dimension key: N rows, M rows of all seeds.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from lfm4ads.data.scored import Scored

Array = npt.NDArray[Any]


def reliability(label_N: Array, *, logit_N: Array, num_bins: int = 12) -> list[dict[str, Any]]:
    """Cut the rows, sorted by logit, into bins of (nearly) equally many; empty bins are dropped."""
    order_N = np.argsort(logit_N, kind="stable")
    chance_N = 1 / (1 + np.exp(-logit_N[order_N].astype(np.float64)))
    chances = np.array_split(chance_N, num_bins)
    labels = np.array_split(label_N[order_N], num_bins)
    return [
        {"predicted": float(chance.mean()), "observed": float(label.mean()), "rows": chance.size}
        for chance, label in zip(chances, labels, strict=True)
        if chance.size
    ]


def reliability_rows(rows: Scored) -> list[dict[str, Any]]:
    """Return the bins of each arm and task, the rows of all its seeds together."""
    found: list[dict[str, Any]] = []
    for arm in dict.fromkeys(arm for arm, _ in rows.logit_N):
        for task in rows.tasks:
            seeds = [
                rows.logit_N[arm, seed][task]
                for seed in rows.seeds(arm)
                if task in rows.logit_N[arm, seed]
            ]
            labelled = rows.cells(task)["all"]
            if seeds and labelled.size:
                logit_M = np.concatenate([logit_N[labelled] for logit_N in seeds])
                label_M = np.tile(rows.label_N[task][labelled], len(seeds))
                bins = reliability(label_M, logit_N=logit_M)
                found.append({"arm": arm, "task": task, "bins": bins})
    return found
