"""A day's cross representations per row, so that any SQL engine can aggregate them.

``<reps>/upstream=<version>/samples/day=<YYYYMMDD>/part-<rank>.parquet`` and ``manifest.json``,
written last. As with snapshots, a day is built in a hidden folder and renamed whole.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json, sha256, whole_file, write_json
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.decay import Float32s
from lfm4ads.data.manifest import MANIFEST
from lfm4ads.data.reps import replace_folder

SCHEMA_VERSION = 1
ROW_GROUP_ROWS = 16_384
KEYS = ("row_id", "user", "item", "time", "domain", "scenario")


@dataclass(frozen=True, kw_only=True)
class SampleColumns:
    """What is written of a row besides its keys."""

    labels: tuple[str, ...]
    """Tasks; null in ``label_<task>`` means the row has no such label."""
    layers: dict[str, int]
    """Widths by name, as ``layer_<name>``."""

    def schema(self) -> pa.Schema:
        """Return the columns of a part file."""
        return pa.schema(
            [
                *(pa.field(name, pa.int64()) for name in KEYS),
                *(pa.field(f"label_{name}", pa.int8()) for name in self.labels),
                *(
                    pa.field(f"layer_{name}", pa.list_(pa.float32(), dim))
                    for name, dim in self.layers.items()
                ),
            ]
        )


def samples_folder(root: Path, *, version: str, day: int) -> Path:
    """Return where a finished day of samples lies."""
    return root / f"upstream={version}" / "samples" / f"day={day}"


class SamplesWriter:
    """One rank's part of a day; a fault waits for ``finish``, where ranks can agree on it."""

    def __init__(
        self, root: Path, *, version: str, day: int, ranks: Ranks, columns: SampleColumns
    ) -> None:
        self.final = samples_folder(root, version=version, day=day)
        self._building = self.final.with_name(f".{self.final.name}.building")
        self._name = f"part-{ranks.rank:05d}.parquet"
        self._ranks = ranks
        self._columns = columns
        self._says: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "upstream": version}
        self._says |= {"day": day, "labels": list(columns.labels), "layers": columns.layers}
        self._waiting: list[pa.Table] = []
        self._error: OSError | None = None
        self._rows = 0
        self._file = whole_file(self._building / self._name)
        self._parquet: pq.ParquetWriter | None = None
        try:
            temporary = self._file.__enter__()
            self._parquet = pq.ParquetWriter(
                temporary, columns.schema(), compression="zstd", use_dictionary=False
            )
        except OSError as error:
            self._error = error

    def add(self, columns: Mapping[str, pa.Array], vectors: Float32s) -> None:
        """Add rows: keys and labels by column name, and their layers side by side (N, W)."""
        arrays = [columns[name] for name in (*KEYS, *(f"label_{n}" for n in self._columns.labels))]
        start = 0
        for dim in self._columns.layers.values():
            flat = np.ascontiguousarray(vectors[:, start : start + dim]).reshape(-1)
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), dim))
            start += dim
        self._waiting.append(pa.Table.from_arrays(arrays, schema=self._columns.schema()))
        if sum(len(one) for one in self._waiting) >= ROW_GROUP_ROWS:
            self._flush()

    def finish(self, *, checkpoint_day: int) -> None:
        """Put the day into place when every rank has written its part. Collective."""
        with self._ranks.together():
            self._flush()
            self._close()
        mine = self._building / self._name
        entry = {"path": self._name, "rows": self._rows, "num_bytes": mine.stat().st_size}
        texts = self._ranks.texts(json.dumps(entry | {"sha256": sha256(mine)}))
        with self._ranks.together():
            if self._ranks.is_first:
                files = [json.loads(text) for text in texts]
                _sweep(self._building, kept=[file["path"] for file in files])
                says = self._says | {"checkpoint_day": checkpoint_day, "files": files}
                write_json(self._building / MANIFEST, says)
                replace_folder(self._building, self.final)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting or self._parquet is None or self._error is not None:
            return
        try:
            table = pa.concat_tables(waiting)
            self._parquet.write_table(table, row_group_size=ROW_GROUP_ROWS)
            self._rows += len(table)
        except OSError as error:
            self._error = error

    def _close(self) -> None:
        if self._parquet is not None and self._error is None:
            self._parquet.close()
            self._file.__exit__(None, None, None)
        if self._error is not None:
            raise self._error


def _sweep(building: Path, *, kept: Sequence[str]) -> None:
    """Remove what an earlier, killed run left beside the files of this one."""
    for path in building.iterdir():
        if path.name not in kept:
            path.unlink()


def sample_files(root: Path, *, version: str, days: Sequence[int]) -> list[Path]:
    """Return the part files of finished days, or say in one sentence what is missing."""
    found: list[Path] = []
    for day in days:
        folder = samples_folder(root, version=version, day=day)
        if not (folder / MANIFEST).is_file():
            raise UserError(
                f"{folder} has no {MANIFEST}, so it holds no finished samples; rerun dump with"
                " samples=true overwrite=true"
            )
        for file in read_json(folder / MANIFEST)["files"]:
            path = folder / file["path"]
            if not path.is_file() or path.stat().st_size != file["num_bytes"]:
                raise UserError(f"{path} is missing or torn; rerun dump with overwrite=true")
            found.append(path)
    return found
