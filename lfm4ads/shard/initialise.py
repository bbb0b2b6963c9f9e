"""First values of table rows from their identity, so that they do not depend on where a row lives.

DistributedModelParallel initialises each shard from the rank's generator: another plan would be
another model.
"""

import zlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lfm4ads.data.hashing import mix64

_CHUNK_CELLS = 1 << 18
"""Numbers made at a time, 8 bytes and a few copies each: the tables may need the rest of memory."""


def row_values(
    table: str,
    *,
    rows: range | npt.NDArray[np.int64],
    columns: range,
    shape: tuple[int, int],
    seed: int,
) -> Tensor:
    """Return uniform values (rows, columns) in +-1/sqrt(table rows), functions of their place.

    Each depends on (seed, table, row, column) alone. That range is TorchRec's own default: a key
    seen a few times should not carry a large random vector.
    """
    salt = mix64(np.array([seed, zlib.crc32(table.encode())], dtype=np.int64))
    row = np.arange(rows.start, rows.stop) if isinstance(rows, range) else rows
    cell = row.astype(np.uint64)[:, None] * np.uint64(shape[1])
    cell = cell + np.arange(columns.start, columns.stop, dtype=np.uint64)[None, :]
    bits = mix64(cell ^ salt[0] ^ (salt[1] << np.uint64(1)))
    unit = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return torch.from_numpy((unit * 2 - 1) * np.float32(shape[0] ** -0.5))


@torch.no_grad()
def fill_rows(
    shard: Tensor,
    table: str,
    *,
    first_row: int,
    first_column: int,
    shape: tuple[int, int],
    seed: int,
) -> None:
    """Overwrite a shard (rows, columns) of a table of ``shape`` (rows, dim), rows by chunks."""
    num_rows, num_columns = shard.shape
    step = max(1, _CHUNK_CELLS // num_columns)
    for start in range(0, num_rows, step):
        stop = min(start + step, num_rows)
        values = row_values(
            table,
            rows=range(first_row + start, first_row + stop),
            columns=range(first_column, first_column + num_columns),
            shape=shape,
            seed=seed,
        )
        shard[start:stop].copy_(values)
