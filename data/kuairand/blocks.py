"""A CSV or Parquet file as typed Arrow blocks, with faults told in one sentence."""

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from lfm4ads.core.errors import UserError

Types = Mapping[str, pa.DataType]

BLOCK_BYTES = 16 << 20
BLOCK_ROWS = 262_144


def read_blocks(path: Path, *, types: Types) -> Iterator[pa.RecordBatch]:
    """Yield the columns ``types`` names, in that order and of those types, block by block.

    A missing column, a value of another type, an empty or a torn file raises ``UserError``.
    """
    blocks = (
        _csv_blocks(path, types=types)
        if path.suffix == ".csv"
        else _parquet_blocks(path, types=types)
    )
    num_rows = 0
    try:
        for block in blocks:
            num_rows += block.num_rows
            yield block
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({_sentence(error)}); download it again") from error
    if not num_rows:
        raise UserError(f"{path} holds no rows; download it again")


def read_table(path: Path, *, types: Types) -> pa.Table:
    """Read a whole file as ``read_blocks`` does."""
    return pa.Table.from_batches(list(read_blocks(path, types=types))).combine_chunks()


def cast_column(values: pa.Array, *, to: pa.DataType, path: Path, column: str) -> pa.Array:
    """Cast without loss, or say which file and column does not fit."""
    try:
        return pc.cast(values, to)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"{path}: column {column} must be {to} ({_sentence(error)}); "
            "mend the column or download the file again"
        ) from error


def _csv_blocks(path: Path, *, types: Types) -> Iterator[pa.RecordBatch]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = next(csv.reader(file), [])
    _require(path, have=header, types=types)
    options = pacsv.ConvertOptions(
        include_columns=list(types), column_types=dict(types), strings_can_be_null=True
    )
    try:
        yield from pacsv.open_csv(
            path, read_options=pacsv.ReadOptions(block_size=BLOCK_BYTES), convert_options=options
        )
    except pa.ArrowInvalid as error:
        where = re.search(r"CSV column #(\d+)", str(error))
        if where is None:
            raise
        column = header[int(where[1])]
        raise UserError(
            f"{path}: column {column} must be {types[column]} ({_sentence(error)}); "
            "mend the row or download the file again"
        ) from error


def _parquet_blocks(path: Path, *, types: Types) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        _require(path, have=file.schema_arrow.names, types=types)
        for block in file.iter_batches(batch_size=BLOCK_ROWS, columns=list(types)):
            yield pa.RecordBatch.from_arrays(
                [
                    cast_column(block.column(name), to=to, path=path, column=name)
                    for name, to in types.items()
                ],
                names=list(types),
            )


def _require(path: Path, *, have: list[str], types: Types) -> None:
    if not have:
        raise UserError(f"{path} is empty; download it again")
    missing = [name for name in types if name not in have]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; it has {', '.join(have)}")


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200]
