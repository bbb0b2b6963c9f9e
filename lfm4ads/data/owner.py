"""Which rank owns a key, and rows on their way to their owners."""

import math

import numpy as np
import numpy.typing as npt

from lfm4ads.core.ranks import Array, Ranks
from lfm4ads.data.hashing import mix64

Int64s = npt.NDArray[np.int64]

ROUND_BYTES = 64 << 20
"""A rank sends at most about this much per collective: buffers stay small beside the rows."""


def owner(keys: Int64s, *, world: int) -> Int64s:
    """Return the rank (N,) in 0..world-1 that owns each key (N,); sequential keys spread evenly."""
    return (mix64(keys) % np.uint64(world)).astype(np.int64)


def exchange_rows(ranks: Ranks, arrays: dict[str, Array]) -> list[dict[str, Array]]:
    """Send every row to the owner of its ``keys``; return what each rank sent here, in rank order.

    Collective. Arrays share axis 0; names, dtypes and trailing shapes are the same on all ranks.

    Args:
        ranks: The job's processes.
        arrays: Columns by name, among them ``keys`` (K,) int64 sorted, still sorted per sender.
    """
    if ranks.world == 1:
        return [arrays]
    keys = arrays["keys"]
    # Arrays of width 0 have no bytes to send; all they need is the length of the keys.
    widths = {
        name: array.dtype.itemsize * math.prod(array.shape[1:]) for name, array in arrays.items()
    }
    step = max(1, ROUND_BYTES // sum(widths.values()))
    rounds = max(int(count[0]) for count in ranks.gather(np.array([-(-len(keys) // step)])))
    received: list[dict[str, list[Array]]] = [{} for _ in range(ranks.world)]
    for start in range(0, max(rounds, 1) * step, step):
        owners = owner(keys[start : start + step], world=ranks.world)
        for name in (name for name, width in widths.items() if width):
            piece = arrays[name][start : start + step]
            parts = [piece[owners == rank] for rank in range(ranks.world)]
            for sender, rows in enumerate(ranks.exchange(parts)):
                received[sender].setdefault(name, []).append(rows)
    return [_joined(pieces, arrays) for pieces in received]


def _joined(pieces: dict[str, list[Array]], like: dict[str, Array]) -> dict[str, Array]:
    columns = {name: np.concatenate(arrays) for name, arrays in pieces.items()}
    num_rows = len(columns["keys"])
    for name in like.keys() - columns.keys():
        columns[name] = np.zeros((num_rows, *like[name].shape[1:]), like[name].dtype)
    return columns
