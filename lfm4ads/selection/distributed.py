"""Best subsets of rows that lie on several ranks or do not fit in memory.

Dimension key: P candidate columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from lfm4ads.core.errors import UserError
from lfm4ads.selection.binned import BinnedCox, quantile_bins
from lfm4ads.selection.columns import Ints, Scale
from lfm4ads.selection.moments import read_linear
from lfm4ads.selection.path import Path
from lfm4ads.selection.problem import Problem
from lfm4ads.selection.risk import Ties
from lfm4ads.selection.rows import RowBatch, RowSource, SumOverRanks
from lfm4ads.selection.select import Selection, SelectOptions, conclude, screen, widen
from lfm4ads.selection.streamed import StreamedGlm, read_totals
from lfm4ads.selection.task import Model
from lfm4ads.selection.units import build_units, narrow_units


@dataclass(frozen=True, kw_only=True)
class RowsOptions:
    """A model of rows read from files."""

    model: Model
    ridge: float = 0.0
    ties: Ties = "breslow"
    num_bins: int = 1024
    """Bins of the times of a Cox model."""
    select: SelectOptions = field(default_factory=SelectOptions)


class NarrowRows:
    """A source with some of its candidate columns."""

    def __init__(self, source: RowSource, kept_P: Ints) -> None:
        self._source = source
        self._kept_P = kept_P
        self.num_columns = len(kept_P)

    def batches(self, columns_M: Ints | None) -> Iterator[RowBatch]:
        """Yield all rows with some of the columns."""
        return self._source.batches(self._kept_P if columns_M is None else self._kept_P[columns_M])


@dataclass(frozen=True)
class _Opened:
    problem: Problem
    scale: Scale


def select_rows(
    source: RowSource, options: RowsOptions, *, sum_over_ranks: SumOverRanks
) -> Selection:
    """Return the best subset for the rows of all ranks, the same on every rank. Collective.

    Every decision is taken on summed numbers, so the ranks walk together; the chosen set does not
    depend on how many there are, coefficients to the rounding of sums.
    """
    wanted = options.select
    if wanted.criterion == "cv" and wanted.size is None:
        raise UserError(
            "criterion cv needs rows in memory; pass a size or criterion aic, bic, ebic or gic",
            everywhere=True,
        )
    opened = _open(source, options, sum_over_ranks)
    units = build_units(
        source.num_columns,
        groups=wanted.groups,
        always=wanted.always,
        constant_P=opened.scale.constant_P,
    )
    kept_P = screen(opened.problem, units, wanted)
    if len(kept_P) < source.num_columns:
        opened = _open(NarrowRows(source, kept_P), options, sum_over_ranks)
        units = narrow_units(units, kept_P)
    path = Path(opened.problem, units, wanted.solver)
    return widen(conclude(path, wanted, scale=opened.scale, validation=None), kept_P)


def _open(source: RowSource, options: RowsOptions, sum_over_ranks: SumOverRanks) -> _Opened:
    if options.model == "linear":
        rows = read_linear(source, sum_over_ranks=sum_over_ranks, ridge=options.ridge)
        return _Opened(rows.problem, rows.scale)
    if options.model == "cox":
        totals = read_totals(source, sum_over_ranks=sum_over_ranks)
        edges_T = quantile_bins(source, sum_over_ranks=sum_over_ranks, num_bins=options.num_bins)
        cox = BinnedCox(
            source,
            totals,
            edges_T=edges_T,
            sum_over_ranks=sum_over_ranks,
            ties=options.ties,
            ridge=options.ridge,
        )
        return _Opened(cox, totals.scale)
    totals = read_totals(source, sum_over_ranks=sum_over_ranks, family=options.model)
    glm = StreamedGlm(
        source,
        totals,
        family=options.model,
        sum_over_ranks=sum_over_ranks,
        ridge=options.ridge,
    )
    return _Opened(glm, totals.scale)
