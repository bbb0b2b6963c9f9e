"""A matrix of candidate columns, standardised on the fly: the raw matrix is never copied.

Column j stands for (x_j - mean_j) / scale_j with weighted mean 0 and weighted sum of squares equal
to the sum of the weights, so curvatures of columns compare and one ridge fits all. Dense and sparse
matrices look alike from outside.

Dimension key: N rows, P candidate columns, K taken columns.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_BLOCK_VALUES = 1 << 16
"""Values squared at a time: half a megabyte stays in the second-level cache."""
_FAR_FROM_ZERO = 250.0
"""Means this many ranges, some thousand deviations, away would cost six of sixteen digits when
taken off afterwards."""
_CONSTANT = 1e-12
_KEPT_VALUES = 1 << 25
"""Standardised columns kept for later fits: a quarter of a gigabyte."""


@dataclass(frozen=True)
class Scale:
    """What standardises P columns, and which of them hold one value only."""

    mean_P: Floats
    scale_P: Floats
    constant_P: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Moments:
    """Sums over rows of columns times values (P, M), and of their weighted squares (P,)."""

    sums_PM: Floats
    squares_P: Floats


def measure_scale(sum_P: Floats, square_P: Floats, *, total_weight: float, centred: bool) -> Scale:
    """Return means and scales from weighted sums and weighted sums of squares (P,)."""
    mean_P = sum_P / total_weight if centred else np.zeros_like(sum_P)
    second_P = square_P / total_weight
    variance_P = second_P - mean_P**2
    constant_P = variance_P <= _CONSTANT * second_P
    scale_P = np.sqrt(np.where(constant_P, 1.0, variance_P))
    return Scale(mean_P, scale_P, constant_P)


class Columns:
    """Standardised columns of a dense or sparse matrix (N, P), with the taken ones kept."""

    def __init__(self, matrix: Any, *, weight_N: Floats, centred: bool) -> None:
        """Measure the columns; ``centred`` belongs to models with an intercept."""
        self._is_sparse = bool(sparse.issparse(matrix))
        # scipy's sparse arrays and numpy's share the few operations used here, not their types.
        self._matrix: Any = sparse.csc_array(matrix) if self._is_sparse else np.asarray(matrix)
        self.num_rows, self.num_columns = self._matrix.shape
        self._shift_P: Floats | None = None
        total = float(weight_N.sum())
        if not self._is_sparse:
            self._maybe_shift(weight_N, centred=centred)
        raw = self._raw_moments(weight_N[:, None], weight_N)
        self.scale = measure_scale(
            raw.sums_PM[:, 0], raw.squares_P, total_weight=total, centred=centred
        )
        self._slot_P = np.full(self.num_columns, -1, dtype=np.int64)
        self._kept: Floats = np.empty((0, self.num_rows))
        self._num_kept = 0

    def _maybe_shift(self, weight_N: Floats, *, centred: bool) -> None:
        """Take far-off means off a copy: afterwards they would cancel."""
        if not centred:
            return
        sample = self._matrix[:: max(1, self.num_rows // 256)]
        middle_P = sample.mean(0)
        spread_P = sample.max(0) - sample.min(0)
        if np.any(np.abs(middle_P) > _FAR_FROM_ZERO * np.maximum(spread_P, 1e-300)):
            self._shift_P = weight_N @ self._matrix / weight_N.sum()
            self._matrix = self._matrix - self._shift_P

    @property
    def raw_scale(self) -> Scale:
        """What standardises the columns as they were handed in."""
        if self._shift_P is None:
            return self.scale
        return replace(self.scale, mean_P=self.scale.mean_P + self._shift_P)

    def _raw_sums(self, values_NM: Floats) -> Floats:
        if self._is_sparse:
            return np.asarray(self._matrix.T @ values_NM)
        return (values_NM.T @ self._matrix).T

    def _raw_moments(self, values_NM: Floats, weight_N: Floats) -> Moments:
        """Read the matrix once for X'V and the weighted squares."""
        if self._is_sparse:
            squares_P = np.asarray(self._matrix.power(2).T @ weight_N)
            return Moments(np.asarray(self._matrix.T @ values_NM), squares_P)
        sums_MP = np.zeros((values_NM.shape[1], self.num_columns))
        squares_P = np.zeros(self.num_columns)
        step = max(1, _BLOCK_VALUES // self.num_columns)
        for at in range(0, self.num_rows, step):
            block = self._matrix[at : at + step]
            sums_MP += values_NM[at : at + step].T @ block
            squares_P += weight_N[at : at + step] @ (block * block)
        return Moments(sums_MP.T, squares_P)

    def sums(self, values_NM: Floats) -> Floats:
        """Return X'V (P, M) for V (N, M)."""
        raw_PM = self._raw_sums(values_NM)
        raw_PM -= np.outer(self.scale.mean_P, values_NM.sum(0))
        scaled_PM: Floats = np.divide(raw_PM, self.scale.scale_P[:, None])
        return scaled_PM

    def moments(self, slope_N: Floats, weight_N: Floats) -> Moments:
        """Return X'slope and X'weight (P, 2) and the weighted sums of squares (P,)."""
        pair_N2 = np.column_stack([slope_N, weight_N])
        raw = self._raw_moments(pair_N2, weight_N)
        mean_P, scale_P = self.scale.mean_P, self.scale.scale_P
        total_2 = pair_N2.sum(0)
        squares_P = raw.squares_P - 2 * mean_P * raw.sums_PM[:, 1] + mean_P**2 * total_2[1]
        sums_P2 = (raw.sums_PM - mean_P[:, None] * total_2) / scale_P[:, None]
        return Moments(sums_P2, np.maximum(squares_P, 0.0) / scale_P**2)

    def take(self, columns_K: Ints) -> Floats:
        """Return the columns themselves (N, K), one after the other in memory."""
        if self._slot_P[columns_K].min(initial=0) < 0:
            self._keep(columns_K)
        if self._slot_P[columns_K].min(initial=0) < 0:
            return self._standardised(columns_K)
        return self._kept[self._slot_P[columns_K]].T

    def copy(self, columns_K: Ints, out_KN: Floats) -> None:
        """Write the columns into the rows of an array."""
        if self._slot_P[columns_K].min(initial=0) < 0:
            self._keep(columns_K)
        slots = self._slot_P[columns_K]
        if slots.min(initial=0) < 0:
            out_KN[:] = self._standardised(columns_K).T
        else:
            # Any mode but the default writes without a copy of its own.
            self._kept.take(slots, axis=0, out=out_KN, mode="clip")

    def peek(self, columns_K: Ints) -> Floats:
        """Return columns (N, K) without keeping them, for passes over all of them."""
        return self._standardised(columns_K)

    def _keep(self, columns_K: Ints) -> None:
        new = columns_K[self._slot_P[columns_K] < 0]
        if (self._num_kept + len(new)) * self.num_rows > max(_KEPT_VALUES, 512 * self.num_rows):
            self._slot_P[:] = -1
            self._num_kept, new = 0, columns_K
        needed = self._num_kept + len(new)
        if needed > len(self._kept):
            larger = np.empty((max(2 * needed, 32), self.num_rows))
            larger[: self._num_kept] = self._kept[: self._num_kept]
            self._kept = larger
        self._kept[self._num_kept : needed] = self._standardised(new).T
        self._slot_P[new] = np.arange(self._num_kept, needed)
        self._num_kept = needed

    def _standardised(self, columns_K: Ints) -> Floats:
        raw = self._matrix[:, columns_K]
        dense = raw.toarray() if self._is_sparse else raw
        out = np.empty(dense.shape, order="F")
        np.subtract(dense, self.scale.mean_P[columns_K], out=out)
        out /= self.scale.scale_P[columns_K]
        return out
