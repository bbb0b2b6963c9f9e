"""Rows that do not fit in memory: Parquet read a batch at a time, each rank its own row groups.

Dimension key: N rows of a batch, M columns asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lfm4ads.core.errors import UserError
from lfm4ads.selection.columns import Floats, Ints

_BATCH_VALUES = 1 << 23
SumOverRanks = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


@dataclass(frozen=True)
class RowBatch:
    """A few rows: candidate columns (N, M) and what is known of each row (N,)."""

    matrix_NM: npt.NDArray[Any]
    y_N: Floats
    weight_N: Floats
    event_N: Floats


class RowSource(Protocol):
    """This rank's rows, readable any number of times."""

    num_columns: int

    def batches(self, columns_M: Ints | None) -> Iterator[RowBatch]:
        """Yield all rows with some candidate columns, by default with every one."""
        ...


@dataclass(frozen=True, kw_only=True)
class RowColumns:
    """Which columns of the files are what."""

    candidates: Sequence[str]
    label: str
    """Number, 0 or 1, count, or time."""
    weight: str | None = None
    event: str | None = None
    """1 where the time is that of an event, 0 where it was censored."""


class ParquetRows:
    """Row groups of Parquet files, dealt to the ranks in turn."""

    def __init__(
        self,
        files: Sequence[Path],
        *,
        columns: RowColumns,
        rank: int = 0,
        world: int = 1,
        batch_rows: int = 16_384,
    ) -> None:
        """Open the footers; the values are read by ``batches``."""
        if not files:
            raise UserError("there is no Parquet file to select from; name at least one")
        self._columns = columns
        self._batch_rows = batch_rows
        self.num_columns = len(columns.candidates)
        groups: list[tuple[Path, int]] = []
        extra = (columns.label, columns.weight, columns.event)
        for file in files:
            with pq.ParquetFile(file) as opened:
                known = set(opened.schema_arrow.names)
                for name in (*columns.candidates, *(one for one in extra if one is not None)):
                    if name not in known:
                        raise UserError(f"{file} has no column {name}; mend the list of columns")
                groups += [(file, group) for group in range(opened.num_row_groups)]
        self._groups = groups[rank::world]

    def batches(self, columns_M: Ints | None) -> Iterator[RowBatch]:
        """Yield all rows of this rank with some candidate columns."""
        names = list(self._columns.candidates)
        wanted = names if columns_M is None else [names[j] for j in columns_M.tolist()]
        extra = (self._columns.label, self._columns.weight, self._columns.event)
        read = list(dict.fromkeys([*wanted, *(one for one in extra if one is not None)]))
        for file, group in self._groups:
            with pq.ParquetFile(file, memory_map=True) as opened:
                for batch in opened.iter_batches(
                    self._batch_rows, row_groups=[group], columns=read, use_threads=False
                ):
                    yield self._batch(file, batch, wanted)

    def _batch(self, file: Path, batch: pa.RecordBatch, wanted: list[str]) -> RowBatch:
        matrix_NM = np.empty((batch.num_rows, len(wanted)), order="F")
        for at, name in enumerate(wanted):
            matrix_NM[:, at] = _numbers(batch, name)
        label = _numbers(batch, self._columns.label)
        if not (np.isfinite(matrix_NM.sum()) and np.isfinite(label.sum())):
            bad = [
                name
                for name in (*wanted, self._columns.label)
                if not np.isfinite(_numbers(batch, name)).all()
            ]
            if bad:
                raise UserError(f"{file} has NaN or infinity in column {bad[0]}; fill or drop it")
        ones = np.ones(batch.num_rows)
        weight, event = self._columns.weight, self._columns.event
        return RowBatch(
            matrix_NM,
            label,
            ones if weight is None else _numbers(batch, weight),
            ones if event is None else _numbers(batch, event),
        )


def _numbers(batch: pa.RecordBatch, name: str) -> Floats:
    return batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64, copy=False)


class ArrayRows:
    """Rows in memory, of either float, read like those of files."""

    def __init__(self, batch: RowBatch, *, batch_rows: int = 16_384) -> None:
        self._all = batch
        self._batch_rows = batch_rows
        self.num_columns = batch.matrix_NM.shape[1]

    def batches(self, columns_M: Ints | None) -> Iterator[RowBatch]:
        """Yield all rows with some candidate columns, no more at a time than 64 MB of them."""
        width = self.num_columns if columns_M is None else len(columns_M)
        step = min(self._batch_rows, max(1, _BATCH_VALUES // max(width, 1)))
        for at in range(0, len(self._all.y_N), step):
            rows = slice(at, at + step)
            matrix = self._all.matrix_NM[rows]
            taken = matrix if columns_M is None else matrix[:, columns_M]
            yield RowBatch(
                taken.astype(np.float64, copy=False),
                self._all.y_N[rows],
                self._all.weight_N[rows],
                self._all.event_N[rows],
            )
