"""From ids of any size to rows of a table: every id is mixed before a table sees it.

FBGEMM accepts out-of-range ids silently, and sequential ids would all land on one rank of a
row-wise table; a mixed id modulo the table's rows has neither problem. Managed tables take
the mixed id itself.
"""

import hashlib
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ids = npt.NDArray[np.int64]

_BLOCK = 16_384
"""Ids mixed at a time, so that all passes over them are in the processor's cache."""


def mix64(values: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Return the SplitMix64 finaliser (Steele et al., OOPSLA 2014), a bijection on 64 bits."""
    mixed = values.astype(np.uint64, order="C", copy=True)
    flat = mixed.reshape(-1)
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK]
        block += np.uint64(0x9E3779B97F4A7C15)
        shifted = block >> np.uint64(30)
        block ^= shifted
        block *= np.uint64(0xBF58476D1CE4E5B9)
        block ^= np.right_shift(block, np.uint64(27), out=shifted)
        block *= np.uint64(0x94D049BB133111EB)
        block ^= np.right_shift(block, np.uint64(31), out=shifted)
    return mixed


def hash_ids(ids: Ids, *, table: str, rows: int) -> Ids:
    """Return the table rows (N,) of ids (N,), salted by table so that collisions differ."""
    mixed = _mixed(ids, table=table)
    # numpy divides by a constant four times as fast as it takes remainders.
    mixed -= mixed // np.uint64(rows) * np.uint64(rows)
    return mixed.view(np.int64)


def mix_ids(ids: Ids, *, table: str) -> Ids:
    """Return ids (N,) below 2^63 spread evenly over that range, salted by table.

    Among a billion ids, two meet in one with a chance of 5 %.
    """
    return (_mixed(ids, table=table) >> np.uint64(1)).view(np.int64)


def _mixed(ids: Ids, *, table: str) -> npt.NDArray[np.uint64]:
    salt = np.uint64(zlib.crc32(table.encode()))
    return mix64(ids.view(np.uint64) ^ (salt << np.uint64(32)))


def key_of(text: str) -> int:
    """Return the 63-bit key of a string id: 8 bytes of BLAKE2b with the top bit cleared."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & (2**63 - 1)


def keys_of_strings(column: pa.Array) -> pa.Array:
    """Return int64 keys of a string column, nulls kept; each distinct string is hashed once."""
    encoded = column.dictionary_encode()
    keys = pa.array([key_of(text) for text in encoded.dictionary.to_pylist()], type=pa.int64())
    return keys.take(encoded.indices)
