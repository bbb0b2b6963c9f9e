"""What a dataset folder holds: days, files, row groups, how many rows of each are wanted.

Rank 0 reads the footers and tells the others, so that a thousand ranks do not open every file.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.columns import (
    Array,
    check_types,
    needed_columns,
    not_null,
    read_domain,
    read_scenario,
)
from lfm4ads.data.schema import Schema, load_schema

DAY_MS = 86_400_000
"""A day in milliseconds."""


@dataclass(frozen=True)
class RowGroup:
    """A run of rows that Parquet decodes as one piece."""

    file: str
    index: int
    rows: int
    """Rows wanted of it: all, or those of the selected domains and scenarios."""
    last_time: int
    """Largest time in it, milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """An indexed dataset; equal on every rank."""

    path: Path
    schema: Schema
    days: dict[int, tuple[RowGroup, ...]]
    domains: tuple[int, ...] = ()
    """Domain indices that are read; empty means all."""
    scenarios: tuple[int, ...] = ()
    """Scenario indices that are read; empty means all."""

    @property
    def is_selected(self) -> bool:
        """Whether some rows are left out."""
        return bool(self.domains or self.scenarios)

    def wanted(self, table: pa.Table, *, where: str) -> Array:
        """Return which rows (N,) of a decoded row group are read."""
        wanted = np.ones(table.num_rows, dtype=np.bool_)
        if self.domains:
            wanted &= np.isin(read_domain(table, self.schema, where=where), self.domains)
        if self.scenarios:
            wanted &= np.isin(read_scenario(table, self.schema, where=where), self.scenarios)
        return wanted

    def groups(self, day: int) -> tuple[RowGroup, ...]:
        """Return the row groups of a day, or say which days there are."""
        if day not in self.days:
            raise UserError(
                f"{self.path} has no day {day}; it holds {min(self.days)} to {max(self.days)}"
                f" ({len(self.days)} days)",
                everywhere=True,
            )
        return self.days[day]

    def rows(self, day: int) -> int:
        """Return the number of rows that are read of a day."""
        return sum(group.rows for group in self.groups(day))

    def end_of_day(self, day: int) -> int:
        """Return the time in milliseconds at which the day's log was closed: its last row's."""
        return max(group.last_time for group in self.groups(day))

    def between(self, first: int, last: int) -> list[int]:
        """Return the days from ``first`` to ``last``, both of which must exist."""
        self.groups(first)
        self.groups(last)
        return [day for day in sorted(self.days) if first <= day <= last]


def open_dataset(path: Path, ranks: Ranks) -> Dataset:
    """Index a dataset folder on rank 0 and return it on every rank; faults raise on every rank."""
    text = ""
    with ranks.together():
        if ranks.is_first:
            days = _scan(path, load_schema(path))
            text = json.dumps(
                {day: [asdict(group) for group in groups] for day, groups in days.items()}
            )
    found = json.loads(ranks.broadcast(text))
    days = {int(day): tuple(RowGroup(**group) for group in groups) for day, groups in found.items()}
    with ranks.together():
        schema = load_schema(path)
    return Dataset(path=path, schema=schema, days=days)


def select_rows(
    dataset: Dataset,
    *,
    domains: Sequence[str] = (),
    scenarios: Sequence[str] = (),
    days: Sequence[int],
    ranks: Ranks,
) -> Dataset:
    """Return the dataset cut down to ``days`` and to rows of the named domains and scenarios.

    A scenario may be called by its number, as reports do.
    Row groups without such rows stay: the end of a day is that of its whole log.
    Only these columns are read for the counts, each row group on one rank.
    """
    schema = dataset.schema
    selected = replace(
        dataset,
        domains=_indices(dataset, domains, kind="domain", known=schema.domains),
        scenarios=_indices(dataset, scenarios, kind="scenario", known=schema.scenarios),
    )
    counted: dict[int, tuple[RowGroup, ...]] = {}
    for day in days:
        groups = dataset.groups(day)
        counts = np.zeros(len(groups), dtype=np.int64)
        with ranks.together():
            for position in range(ranks.rank, len(groups), ranks.world):
                counts[position] = _count(selected, groups[position])
        counts = ranks.sum(counts)
        counted[day] = tuple(
            RowGroup(group.file, group.index, int(count), group.last_time)
            for group, count in zip(groups, counts, strict=True)
        )
    return replace(selected, days=counted)


def _indices(
    dataset: Dataset, names: Sequence[str], *, kind: str, known: Sequence[str]
) -> tuple[int, ...]:
    places = {name: place for place, name in enumerate(known)}
    if kind == "scenario":
        places = {str(place): place for place in range(len(known))} | places
    unknown = set(names) - set(places)
    if unknown:
        raise UserError(
            f"{dataset.path} has no {kind} {min(unknown)}; its schema lists {', '.join(known)}",
            everywhere=True,
        )
    return tuple(places[name] for name in names)


def _footer(file: Path) -> pq.FileMetaData:
    """Return the footer of a file; parsing many columns takes long beside decoding a row group."""
    state = file.stat()
    return _parsed_footer(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _parsed_footer(file: Path, _changed_ns: int, _size: int) -> pq.FileMetaData:
    return pq.read_metadata(file)


def read_row_group(path: Path, group: RowGroup, *, columns: Sequence[str]) -> pa.Table:
    """Decode one row group, or say which file is damaged."""
    try:
        with pq.ParquetFile(path / group.file, metadata=_footer(path / group.file)) as file:
            return file.read_row_group(group.index, columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path / group.file}, row group {group.index}: cannot be read"
            f" ({_first_line(error)}); write the file again with 'make prepare'"
        ) from error


def _count(dataset: Dataset, group: RowGroup) -> int:
    schema = dataset.schema
    table = read_row_group(dataset.path, group, columns=[schema.domain, schema.scenario])
    where = f"{dataset.path / group.file}, row group {group.index}"
    return int(dataset.wanted(table, where=where).sum())


def _scan(path: Path, schema: Schema) -> dict[int, list[RowGroup]]:
    folders = {folder: _day_of(folder) for folder in sorted(path.glob("day=*")) if folder.is_dir()}
    files = [
        (day, file) for folder, day in folders.items() for file in sorted(folder.glob("*.parquet"))
    ]
    if not files:
        raise UserError(
            f"{path} has no files day=YYYYMMDD/*.parquet;"
            " run 'make prepare' or point data at a prepared dataset"
        )
    columns = needed_columns(schema)
    with ThreadPoolExecutor(8) as pool:
        indexed = list(pool.map(lambda entry: _index_file(path, entry[1], schema, columns), files))
    days: dict[int, list[RowGroup]] = {}
    for (day, _), groups in zip(files, indexed, strict=True):
        days.setdefault(day, []).extend(groups)
    return days


def _day_of(folder: Path) -> int:
    text = folder.name.removeprefix("day=")
    if len(text) != 8 or not text.isdigit():
        raise UserError(f"{folder} is not named day=YYYYMMDD; rename or remove it")
    return int(text)


def _index_file(path: Path, file: Path, schema: Schema, columns: list[str]) -> list[RowGroup]:
    try:
        with pq.ParquetFile(file) as parquet:
            metadata, arrow = parquet.metadata, parquet.schema_arrow
    except (pa.ArrowException, OSError) as error:
        state = (
            "is empty"
            if file.stat().st_size == 0
            else f"is not whole Parquet ({_first_line(error)})"
        )
        raise UserError(f"{file} {state}; write it again with 'make prepare'") from error
    if metadata.num_rows == 0:
        raise UserError(f"{file} holds no rows; remove it or write it again with 'make prepare'")
    check_types(arrow, schema, columns, file=file)
    time = [
        metadata.row_group(0).column(i).path_in_schema for i in range(metadata.num_columns)
    ].index(schema.time)
    return [
        RowGroup(
            str(file.relative_to(path)),
            index,
            metadata.row_group(index).num_rows,
            _last_time(file, metadata, index, time),
        )
        for index in range(metadata.num_row_groups)
    ]


def _last_time(file: Path, metadata: pq.FileMetaData, index: int, column: int) -> int:
    chunk = metadata.row_group(index).column(column)
    if chunk.statistics is not None and chunk.statistics.has_min_max:
        return int(chunk.statistics.max)
    with pq.ParquetFile(file) as parquet:
        values = parquet.read_row_group(index, columns=[chunk.path_in_schema]).column(0)
    not_null(values, column=chunk.path_in_schema, where=f"{file}, row group {index}")
    return int(pc.call_function("max", [values]).as_py())


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
