"""The comparable-sample study: does sharing help where two tasks' feedback is alike?

After Su et al., arXiv 2308.13537: users are put into bins by how much positive feedback one task
gives them relative to another, and models are compared bin by bin. The paper's own bins are not
public; these are a reconstruction. Bins come from training rows alone.

Dimension key: U users with training rows, N test rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lfm4ads.core.ranks import Ranks
from lfm4ads.data.positives import Positives
from lfm4ads.metrics.binary import BinaryMetrics
from lfm4ads.metrics.seeds import student_interval

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Json = dict[str, Any]
Pair = tuple[str, str]
FIRST, COMPARABLE, SECOND, UNSEEN = range(4)
"""Bins: the pair's first task dominates, neither does, its second one, no training row tells."""
MEAN = "mean"
"""Stands for a task where both of a pair are averaged."""


@dataclass(frozen=True, kw_only=True)
class BinsConfig:
    """How users are put into bins by rho = log2(a / b) of a pair of tasks.

    a = (n_a + c) / (N_a r_a + c): the user's positives over those that a user with as many rows of
    the task would have at the task's rate over all training rows; b likewise.
    """

    edges: Literal["ratio", "terciles"] = "ratio"
    """ratio: comparable is |rho| <= ``width``. terciles: the middle third of the users."""
    width: float = 1.0
    """1: up to twice as much feedback by one task as by the other."""
    smoothing: float = 1.0
    """c, in positives: few rows say little."""
    normalise: Literal["rate", "none"] = "rate"
    """none: a = n_a + c. A task with ten times the positives then dominates nearly all users."""

    def __post_init__(self) -> None:
        if self.smoothing <= 0:
            raise ValueError(f"bins.smoothing must be positive, got {self.smoothing}")
        if self.width < 0:
            raise ValueError(f"bins.width must be at least 0, got {self.width}")


@dataclass(frozen=True, kw_only=True)
class Bins:
    """The bins of one pair of tasks."""

    pair: Pair
    user_U: npt.NDArray[np.int64]
    """Sorted."""
    bin_U: npt.NDArray[np.int8]
    low: float
    high: float
    """Comparable is low <= rho <= high."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the bins in their order."""
        first, second = self.pair
        return f"{first}_dominant", "comparable", f"{second}_dominant", "unseen"

    def of(self, user_N: Array) -> npt.NDArray[np.int8]:
        """Return the bins (N,) of users; who has no training row is ``UNSEEN``."""
        bin_N = np.full(len(user_N), UNSEEN, dtype=np.int8)
        if len(self.user_U):
            place_N = np.minimum(np.searchsorted(self.user_U, user_N), len(self.user_U) - 1)
            known_N = self.user_U[place_N] == user_N
            bin_N[known_N] = self.bin_U[place_N[known_N]]
        return bin_N


def log_ratios(positives: Positives, *, pair: Pair, config: BinsConfig) -> Doubles:
    """Return rho (U,); NaN where no training row of a user carries one of the labels."""
    first_U, second_U = (_levels(positives, task=task, config=config) for task in pair)
    rho_U = np.log2(first_U / second_U)
    rows_U = np.minimum(*(positives.of(task)[0] for task in pair))
    return np.where(rows_U > 0, rho_U, np.nan)


def _levels(positives: Positives, *, task: str, config: BinsConfig) -> Doubles:
    rows_U, count_U = positives.of(task)
    if config.normalise == "none":
        return count_U.astype(np.float64) + config.smoothing
    rate = count_U.sum() / max(rows_U.sum(), 1)
    return (count_U + config.smoothing) / (rows_U * rate + config.smoothing)


def bin_users(positives: Positives, *, pair: Pair, config: BinsConfig) -> Bins:
    """Put every user of the training rows into a bin of the pair."""
    rho_U = log_ratios(positives, pair=pair, config=config)
    low, high = -config.width, config.width
    if config.edges == "terciles" and np.isfinite(rho_U).any():
        low, high = (float(edge) for edge in np.nanquantile(rho_U, [1 / 3, 2 / 3]))
    bin_U = np.full(len(rho_U), COMPARABLE, dtype=np.int8)
    bin_U[rho_U > high] = FIRST
    bin_U[rho_U < low] = SECOND
    bin_U[np.isnan(rho_U)] = UNSEEN
    return Bins(pair=pair, user_U=positives.user_U, bin_U=bin_U, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one run reaches on the rows of one bin and task; None where a class is missing."""

    auc: float | None
    """All rows of the bin together."""
    gauc: float | None
    """Within a user, weighted by rows, over users with both classes."""


def cell_of(logit_N: Array, *, label_N: Array, user_N: Array, alone: Ranks) -> Cell:
    """Return the figures of rows that carry the label; ``alone`` is a job of one rank."""
    metrics = BinaryMetrics()
    metrics.update(logit_N, labels=label_N, users=user_N)
    figures = metrics.reduce(alone)
    return Cell(auc=figures.auc, gauc=figures.gauc)


Cells = Mapping[tuple[str, int, str], Cell]
"""One run's figures by pair name, bin and task."""


@dataclass(frozen=True, kw_only=True)
class Against:
    """Which variant a task is compared with."""

    baseline: str
    baselines: Mapping[str, str]
    """Task -> single-task variant that is its baseline, and is compared on nothing else."""

    def of(self, task: str) -> str:
        """Return the baseline of a task."""
        return self.baselines.get(task, self.baseline)

    def tasks_of(self, variant: str, *, pair: Pair) -> tuple[str, ...]:
        """Return the tasks of a pair on which a variant is shown."""
        single = [task for task, name in self.baselines.items() if name == variant]
        if not single or variant == self.baseline:
            return pair
        return tuple(task for task in pair if task in single)


def compare_cells(
    runs: Mapping[tuple[str, int], Cells],
    *,
    name: str,
    bins: Bins,
    against: Against,
    seeds: Sequence[int],
) -> list[Json]:
    """Return a row for every bin, task and variant of one pair, with intervals over seeds.

    Args:
        runs: Figures by variant and seed.
        name: Of the pair.
        bins: Of the pair.
        against: What is compared with what.
        seeds: Those of every variant.
    """
    variants = list(dict.fromkeys(variant for variant, _ in runs))
    rows: list[Json] = []
    for place, bin_name in enumerate(bins.names):
        for variant in variants:
            tasks = against.tasks_of(variant, pair=bins.pair)
            found = {
                task: _task_row(
                    runs, key=(name, place, task), variant=variant, against=against, seeds=seeds
                )
                for task in tasks
            }
            if len(found) > 1:
                found[MEAN] = _mean_row(list(found.values()))
            rows += [
                {"pair": name, "bin": bin_name, "task": task, "variant": variant, **_row(values)}
                for task, values in found.items()
            ]
    return rows


_Values = dict[str, list[float | None]]
"""Figure -> its value for every seed."""


def _task_row(
    runs: Mapping[tuple[str, int], Cells],
    *,
    key: tuple[str, int, str],
    variant: str,
    against: Against,
    seeds: Sequence[int],
) -> _Values:
    baseline = against.of(key[2])
    values: _Values = {}
    for figure in ("auc", "gauc"):
        own, base = (
            [getattr(runs[one, seed][key], figure) for seed in seeds] for one in (variant, baseline)
        )
        values[figure] = own
        if variant != baseline:
            values[f"delta_{figure}"] = [_minus(x, y) for x, y in zip(own, base, strict=True)]
    return values


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _mean_row(rows: Sequence[_Values]) -> _Values:
    """Return the mean over tasks, seed by seed, of what all of them have."""
    return {
        figure: [
            None if None in values else float(np.mean([v for v in values if v is not None]))
            for values in zip(*(row[figure] for row in rows), strict=True)
        ]
        for figure in rows[0]
        if all(figure in row for row in rows)
    }


def _row(values: _Values) -> Json:
    """Return each figure's mean and interval, and its values; None where the baseline has none."""
    row: Json = {}
    for figure in ("auc", "gauc", "delta_auc", "delta_gauc"):
        own = values.get(figure)
        known = [value for value in own or () if value is not None]
        whole = own is not None and len(known) == len(own)
        row[figure] = asdict(student_interval(known)) if whole else None
        row[f"{figure}_values"] = own
    return row
