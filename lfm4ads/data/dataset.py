"""A dataset folder in the making: days of part files, ``schema.yaml``, ``dataset.json`` last.

Everything is written to a hidden sibling folder that takes the output's name at the very end, so a
killed prepare leaves nothing that could be taken for a dataset, and an overwritten dataset stays
whole until its successor is.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

import pyarrow as pa
import pyarrow.parquet as pq

from lfm4ads.core.config import config_yaml
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import write_json, write_text
from lfm4ads.data.schema import KEY_COLUMNS, Schema

MANIFEST = "dataset.json"
"""Its presence marks a complete dataset."""


@dataclass(frozen=True, kw_only=True)
class FileConfig:
    """How Parquet files are cut and packed."""

    rows_per_file: int = 262_144
    row_group_rows: int = 8_192
    """Row groups are what ranks share out, so a day should hold several for each rank."""
    compression: Literal["zstd", "lz4", "snappy", "none"] = "zstd"

    def __post_init__(self) -> None:
        if self.row_group_rows < 1 or self.rows_per_file < 1:
            raise ValueError(
                "rows_per_file and row_group_rows must be at least 1, "
                f"got {self.rows_per_file} and {self.row_group_rows}"
            )


class DatasetWriter:
    """Writes one dataset; leave the ``with`` block without ``finish`` and nothing remains of it."""

    def __init__(
        self,
        output: Path,
        *,
        overwrite: bool = False,
        files: FileConfig | None = None,
        dictionary: bool | Sequence[str] = True,
    ) -> None:
        """Refuse what must not be replaced, then open the hidden folder.

        Args:
            output: folder the dataset will have.
            overwrite: replace a complete dataset; a folder that is no dataset is never replaced.
            files: how Parquet files are cut and packed.
            dictionary: columns worth a Parquet dictionary, or whether to try it on all.
        """
        self.output = output
        self.rows_per_day: dict[int, int] = {}
        self._files = files or FileConfig()
        self._dictionary = dictionary if isinstance(dictionary, bool) else list(dictionary)
        self._parts: dict[Path, int] = {}
        self._columns: pa.Schema | None = None
        _refuse(output, overwrite=overwrite)
        self._building = output.with_name(f".{output.name}.building")
        self._lock = _open_building(self._building)

    def write_day(self, day: int, table: pa.Table) -> None:
        """Append rows to a day (YYYYMMDD), in time order over all calls."""
        if self._columns is not None and not table.schema.equals(self._columns):
            raise ValueError(
                f"day {day} has columns {table.schema}, earlier ones had {self._columns}"
            )
        if not table.num_rows:
            return
        self._columns = table.schema
        self.rows_per_day[day] = self.rows_per_day.get(day, 0) + table.num_rows
        self._write(self._building / f"day={day}", table)

    def write_side_day(self, name: str, *, day: int, table: pa.Table) -> None:
        """Append rows of a side file such as the simulator's ``oracle``, tied by ``row_id``."""
        self._write(self._building / name / f"day={day}", table)

    def finish(self, schema: Schema, *, config: Any) -> Path:
        """Write ``schema.yaml`` and the manifest, take the output's name, and return it.

        ``config`` is the dataclass that prepared the dataset; the manifest keeps it whole.
        """
        _check_columns(schema, names=self._columns.names if self._columns else [])
        write_text(self._building / "schema.yaml", config_yaml(schema))
        manifest = {
            "schema_version": 1,
            "name": schema.name,
            "rows": sum(self.rows_per_day.values()),
            "rows_per_day": {str(day): rows for day, rows in sorted(self.rows_per_day.items())},
            "config": json.loads(json.dumps(asdict(config), default=str)),
        }
        write_json(self._building / MANIFEST, manifest)
        _replace(self.output, building=self._building)
        return self.output

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._building, ignore_errors=True)
        os.close(self._lock)

    def _write(self, folder: Path, table: pa.Table) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for start in range(0, table.num_rows, self._files.rows_per_file):
            part = self._parts.get(folder, 0)
            self._parts[folder] = part + 1
            path = folder / f"part-{part:05d}.parquet"
            pq.write_table(
                table.slice(start, self._files.rows_per_file),
                path,
                row_group_size=self._files.row_group_rows,
                compression=self._files.compression,
                use_dictionary=cast(bool, self._dictionary),  # a list is right too
            )
            with path.open("rb") as written:
                os.fsync(written.fileno())


def is_complete(dataset: Path) -> bool:
    """Whether a folder holds a dataset whose prepare ran to its end."""
    return (dataset / MANIFEST).is_file()


def _refuse(output: Path, *, overwrite: bool) -> None:
    if is_complete(output):
        if not overwrite:
            raise UserError(
                f"{output} already holds a finished dataset; "
                "choose another output or pass overwrite=true"
            )
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(
            f"{output} exists and is not a dataset; choose another output or remove it yourself"
        )


def _open_building(folder: Path) -> int:
    """Empty the hidden folder and lock it, so that two prepares of one output cannot mix."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"output {folder.parent} cannot be written: {error.strerror}; choose another folder"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise UserError(
            f"another prepare is writing {folder}; wait for it or choose another output"
        ) from error
    for left in folder.iterdir():  # of a prepare that was killed
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return lock


def _check_columns(schema: Schema, *, names: Sequence[str]) -> None:
    """Refuse a schema that names a column no day has."""
    wanted = [getattr(schema, key) for key in KEY_COLUMNS] + [
        schema.column(name) for name in schema.features
    ]
    wanted += [feature.times for feature in schema.features.values()] + [schema.row_id]
    wanted += [column for task in schema.tasks.values() for column in (task.label, task.duration)]
    missing = sorted({column for column in wanted if column} - set(names))
    if missing:
        raise ValueError(
            f"schema {schema.name} names columns {missing} that no day was written with"
        )


def _replace(output: Path, *, building: Path) -> None:
    """Give ``building`` the name ``output``; a former dataset steps aside first."""
    former = output.with_name(f".{output.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    if output.exists():
        output.rename(former)
    building.rename(output)
    shutil.rmtree(former, ignore_errors=True)
