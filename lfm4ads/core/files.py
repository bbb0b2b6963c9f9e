"""Files that appear whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lfm4ads.core.errors import UserError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it into place.

    On any failure (full disk, exception, kill) ``path`` keeps its former content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON atomically; NaN and infinity, which JSON lacks, are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON, or say in one sentence which file is missing or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; run the stage that writes it first") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not valid JSON ({error}); delete it and rerun its stage"
        ) from error


def write_parquet(path: Path, table: pa.Table, *, row_group_rows: int = 16_384) -> None:
    """Write ``table`` as one Parquet file atomically."""
    with whole_file(path) as temporary:
        pq.write_table(table, temporary, row_group_size=row_group_rows, compression="zstd")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prepare_output(path: Path, *, overwrite: bool, done: str = "report.json") -> None:
    """Make the output folder, refusing one that holds a finished run unless told to overwrite.

    ``done`` is the file whose presence marks the run as finished.
    """
    if (path / done).exists():
        if not overwrite:
            raise UserError(
                f"{path} already holds a finished run; choose another output or pass overwrite=true"
            )
        shutil.rmtree(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"output {path} cannot be written: {error.strerror}; choose another folder"
        ) from error
