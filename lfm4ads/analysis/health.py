"""Health of dumped representations: norms, coverage, staleness, drift, and what a probe reads.

Everything is a sum over rows, so blocks and ranks merge by addition.

Dimension key: N rows or keys, K width of a representation, J of another, Q quantiles, L layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lfm4ads.analysis.collapse import Sum

Doubles = npt.NDArray[np.float64]
QUANTILES = (0.05, 0.5, 0.95)
_STEPS_PER_DOUBLING = 32


class Quantiles:
    """Quantiles of positive numbers from counts in logarithmic steps of 2.2 %, and their zeros.

    Counts are integers: a number of ranks changes nothing.
    """

    _LOW, _HIGH = -40, 40
    """Powers of two between which numbers are told apart."""

    def __init__(self) -> None:
        self._counts = np.zeros((self._HIGH - self._LOW) * _STEPS_PER_DOUBLING + 1, dtype=np.int64)

    def add(self, values_N: npt.NDArray[Any]) -> None:
        """Count numbers; those that are not positive count as zero."""
        values_N = values_N.astype(np.float64)
        positive = values_N[values_N > 0]
        steps = np.floor((np.log2(positive) - self._LOW) * _STEPS_PER_DOUBLING) + 1
        places = np.clip(steps, 1, len(self._counts) - 1).astype(np.int64)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._counts[0] += len(values_N) - len(positive)

    def read(self, over_ranks: Sum) -> dict[str, float | int | None]:
        """Return rows, share of zeros and quantiles of all ranks; None where nothing came."""
        counts = over_ranks(self._counts)
        total = int(counts.sum())
        read: dict[str, float | int | None] = {"rows": total}
        read["zeros_ratio"] = float(counts[0] / total) if total else None
        for q in QUANTILES:
            place = int(np.searchsorted(np.cumsum(counts), max(q * total, 1))) if total else 0
            middle = 2.0 ** (self._LOW + (place - 0.5) / _STEPS_PER_DOUBLING) if place else 0.0
            read[f"p{round(100 * q)}"] = middle if total else None
        return read


class Drift:
    """How much two sets of vectors of the same keys differ: another day, or another upstream.

    Linear CKA (Kornblith et al., ICML 2019) compares what the vectors say of which keys are alike:
    no rotation or scale enters, and widths may differ, so it fits two upstreams. For equal widths
    there are also the mean cosine and the mean move over the mean length, which a reader of
    both feels who was trained on one.
    """

    def __init__(self, dim: int, other: int) -> None:
        self._dims = (dim, other)
        wide = dim + other
        self._moment = np.zeros((wide, wide))
        self._sum = np.zeros(wide)
        self._scalars = np.zeros(4)  # rows, cosines, moves, lengths

    def add(self, one_NK: npt.NDArray[Any], other_NJ: npt.NDArray[Any]) -> None:
        """Add keys that are in both sets."""
        one, other = one_NK.astype(np.float64), other_NJ.astype(np.float64)
        both = np.concatenate([one, other], axis=1)
        self._moment += both.T @ both
        self._sum += both.sum(0)
        self._scalars[0] += len(one)
        if self._dims[0] == self._dims[1]:
            lengths, others = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
            product = lengths * others
            dots = (one * other).sum(1)
            self._scalars[1] += np.divide(
                dots, product, out=np.zeros(len(one)), where=product > 0
            ).sum()
            self._scalars[2] += np.linalg.norm(one - other, axis=1).sum()
            self._scalars[3] += lengths.sum()

    def read(self, over_ranks: Sum) -> dict[str, float | int | None]:
        """Return the figures over all ranks; None where they are not defined."""
        moment, total, scalars = (
            over_ranks(one) for one in (self._moment, self._sum, self._scalars)
        )
        rows = scalars[0]
        read: dict[str, float | int | None] = {"rows": int(rows), "cka": None}
        read |= {"cosine": None, "move_ratio": None}
        if not rows:
            return read
        covariance = moment - np.outer(total, total) / rows
        at = self._dims[0]
        cross, own, others = covariance[:at, at:], covariance[:at, :at], covariance[at:, at:]
        size = float(np.linalg.norm(own) * np.linalg.norm(others))
        read["cka"] = float(np.linalg.norm(cross) ** 2 / size) if size > 0 else None
        if self._dims[0] == self._dims[1]:
            read["cosine"] = float(scalars[1] / rows)
            read["move_ratio"] = float(scalars[2] / scalars[3]) if scalars[3] > 0 else None
        return read


@dataclass(frozen=True)
class Probe:
    """A linear score w x + b of a representation."""

    weight_K: Doubles
    bias: float

    def scores(self, rows_NK: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the scores (N,)."""
        return (rows_NK @ self.weight_K + self.bias).astype(np.float32)


class ProbeSums:
    """Sums from which a ridge regression of a label on a representation is solved exactly.

    Least squares on 0 and 1 orders rows as Fisher's discriminant does, in one pass; a logistic
    probe would need many. Columns are standardised, so that one ridge fits every layer.
    """

    def __init__(self, dim: int) -> None:
        self._moment = np.zeros((dim + 2, dim + 2))

    def add(self, rows_NK: npt.NDArray[Any], label_N: npt.NDArray[Any]) -> None:
        """Add labelled rows."""
        rows = rows_NK.astype(np.float64)
        wide = np.concatenate(
            [rows, label_N.astype(np.float64)[:, None], np.ones((len(rows), 1))], 1
        )
        self._moment += wide.T @ wide

    def solve(self, over_ranks: Sum, *, ridge: float = 1e-3) -> Probe:
        """Return the probe of the rows of all ranks; ``ridge`` is a share of a column's variance.

        Constant columns get no weight.
        """
        moment = over_ranks(self._moment)
        rows = max(moment[-1, -1], 1.0)
        mean = moment[-1, :-1] / rows
        covariance = moment[:-1, :-1] / rows - np.outer(mean, mean)
        spread_K = np.sqrt(np.maximum(np.diag(covariance)[:-1], 0.0))
        scale_K = np.where(spread_K > 1e-12 * np.abs(mean[:-1]).max(initial=1.0), spread_K, np.inf)
        normal = covariance[:-1, :-1] / np.outer(scale_K, scale_K) + ridge * np.eye(len(scale_K))
        weight_K = np.linalg.solve(normal, covariance[:-1, -1] / scale_K) / scale_K
        return Probe(weight_K, float(mean[-1] - mean[:-1] @ weight_K))


def staleness_days(last_time_ms: npt.NDArray[np.int64], *, as_of_end_ms: int) -> Doubles:
    """Return days (N,) from each key's last event to the end of the snapshot's day, at least 0."""
    return np.maximum(as_of_end_ms - last_time_ms, 0) / 86_400_000


def coverage(present: Sequence[npt.NDArray[np.bool_]], over_ranks: Sum) -> tuple[int, float | None]:
    """Return how many rows asked for a representation and the share that had one."""
    mine = np.array([sum(len(one) for one in present), sum(int(one.sum()) for one in present)])
    rows, found = (int(one) for one in over_ranks(mine))
    return rows, found / rows if rows else None
