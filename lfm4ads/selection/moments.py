"""One pass over rows for what a linear model needs: all sizes and searches follow without another.

Values are shifted by a provisional mean before they are squared, since sums of squares of columns
far from zero would cancel; everything is added up in double precision.

Dimension key: N rows of a batch, P candidate columns, Q = P + 1 with the label.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg.blas import get_blas_funcs

from lfm4ads.core.errors import UserError
from lfm4ads.selection.columns import Floats, Scale, measure_scale
from lfm4ads.selection.linear import LinearProblem, WholeGram
from lfm4ads.selection.rows import RowSource, SumOverRanks

(_syrk,) = get_blas_funcs(("syrk",))


@dataclass(frozen=True)
class LinearRows:
    """A linear problem made of rows of all ranks, and what put its columns on one scale."""

    problem: LinearProblem
    scale: Scale


def read_linear(
    source: RowSource, *, sum_over_ranks: SumOverRanks, ridge: float = 0.0
) -> LinearRows:
    """Return the linear problem of the rows of all ranks. Memory: 2 P^2 numbers and one batch."""
    shift_Q = _provisional(source, sum_over_ranks)
    size = source.num_columns + 1
    square_QQ = np.zeros((size, size), order="F")
    sum_Q, total = np.zeros(size), 0.0
    for batch in source.batches(None):
        joined_NQ = np.empty((len(batch.y_N), size), order="F")
        np.subtract(batch.matrix_NM, shift_Q[:-1], out=joined_NQ[:, :-1])
        np.subtract(batch.y_N, shift_Q[-1], out=joined_NQ[:, -1])
        root_N = np.sqrt(batch.weight_N)
        sum_Q += batch.weight_N @ joined_NQ
        total += float(batch.weight_N.sum())
        joined_NQ *= root_N[:, None]
        # Half the products of a general multiplication, added in place.
        square_QQ = _syrk(1.0, joined_NQ, beta=1.0, c=square_QQ, trans=1, overwrite_c=1)
    square_QQ = sum_over_ranks(square_QQ)
    summed = sum_over_ranks(np.r_[sum_Q, total])
    sum_Q, total = summed[:-1], float(summed[-1])
    square_QQ += np.triu(square_QQ, 1).T
    return _centre(square_QQ, sum_Q=sum_Q, total=total, shift_Q=shift_Q, ridge=ridge)


def _provisional(source: RowSource, sum_over_ranks: SumOverRanks) -> Floats:
    """Return the mean of the first batches of all ranks."""
    sums = np.zeros(source.num_columns + 2)
    for batch in source.batches(None):
        sums = np.r_[batch.matrix_NM.sum(0), batch.y_N.sum(), float(len(batch.y_N))]
        break
    sums = sum_over_ranks(sums)
    if not sums[-1]:
        raise UserError("there is no row to select from on any rank", everywhere=True)
    return sums[:-1] / sums[-1]


def _centre(
    square_QQ: Floats, *, sum_Q: Floats, total: float, shift_Q: Floats, ridge: float
) -> LinearRows:
    mean_Q = sum_Q / total
    square_QQ -= total * np.outer(mean_Q, mean_Q)
    variance_Q = square_QQ.diagonal().copy()
    raw = measure_scale(sum_Q, variance_Q + total * mean_Q**2, total_weight=total, centred=True)
    scale = Scale(mean_Q[:-1] + shift_Q[:-1], raw.scale_P[:-1], raw.constant_P[:-1])
    standard_QQ = square_QQ / raw.scale_P[:, None]
    standard_QQ[:, :-1] /= raw.scale_P[:-1]
    problem = LinearProblem(
        WholeGram(np.ascontiguousarray(standard_QQ[:-1, :-1])),
        moment_P=standard_QQ[:-1, -1].copy(),
        square=float(square_QQ[-1, -1]),
        num_rows=total,
        mean=float(mean_Q[-1] + shift_Q[-1]),
        ridge=ridge,
    )
    return LinearRows(problem, scale)
