"""The newest vector per key, as a state that merges in any order: how UR and IR are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.decay import Float32s, Int64s, union
from lfm4ads.data.hashing import mix64
from lfm4ads.data.owner import exchange_rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Latest:
    """The vector of the row with the largest (time, tie) of each of K keys."""

    keys: Int64s
    """(K,) sorted, unique."""
    vector: Float32s
    """(K, D)."""
    time: Int64s
    """(K,) the row's time in milliseconds."""
    tie: Int64s
    """(K,) decides between rows of the same time; the row's id, or a hash of its vector."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def dim(self) -> int:
        """Width D."""
        return self.vector.shape[1]

    def take(self, rows: slice | Int64s | npt.NDArray[np.bool_]) -> "Latest":
        """Return some rows, which must be in ascending order."""
        return Latest(
            keys=self.keys[rows], vector=self.vector[rows], time=self.time[rows], tie=self.tie[rows]
        )


def empty_latest(dim: int) -> Latest:
    """Return the state of no key."""
    none = np.zeros(0, dtype=np.int64)
    return Latest(keys=none, vector=np.zeros((0, dim), dtype=np.float32), time=none, tie=none)


def fold_latest(
    keys: Int64s, vectors: Float32s, times: Int64s, *, ties: Int64s | None = None
) -> Latest:
    """Keep each key's vector of the largest (time, tie).

    Args:
        keys: (N,) the key of each row.
        vectors: (N, D).
        times: (N,) milliseconds.
        ties: (N,) row ids, unique over the dataset; None ranks rows of one time by a hash of their
            vector's bits, which depends on neither order nor ranks.

    Raises:
        UserError: A kept vector holds NaN or infinity. Ranks may fail alone: call it inside
            ``ranks.together()``.
    """
    if not len(keys) == len(vectors) == len(times) or vectors.ndim != 2:
        raise ValueError(
            f"rows disagree: keys {keys.shape}, vectors {vectors.shape}, times {times.shape}"
        )
    if ties is None:
        ties = _bits_hash(vectors)
    order = np.lexsort((ties, times, keys))
    sorted_keys = keys[order]
    kept = (
        order[np.concatenate([sorted_keys[1:] != sorted_keys[:-1], [True]])] if len(keys) else order
    )
    latest = Latest(keys=keys[kept], vector=vectors[kept], time=times[kept], tie=ties[kept])
    bad = ~np.isfinite(latest.vector).all(axis=1)
    if bad.any():
        raise UserError(
            f"the vector of key {latest.keys[bad][0]} holds NaN or infinity; the upstream model "
            "has diverged, dump from an earlier checkpoint"
        )
    return latest


def _bits_hash(vectors: Float32s) -> Int64s:
    bits = np.ascontiguousarray(vectors, dtype=np.float32).view(np.uint32)
    salts = mix64(np.arange(vectors.shape[1])) | np.uint64(1)
    total = np.zeros(len(vectors), dtype=np.uint64)
    for column, salt in enumerate(salts):
        total += bits[:, column] * salt
    return mix64(total).view(np.int64)


def merge_latest(a: Latest, b: Latest) -> Latest:
    """Return the newer of the two per key."""
    if a.dim != b.dim:
        raise ValueError(f"vectors of width {a.dim} and {b.dim} do not merge")
    if len(a) == 0 or len(b) == 0:
        return b if len(a) == 0 else a
    keys = union(a.keys, b.keys)
    merged = Latest(
        keys=keys,
        vector=np.zeros((len(keys), a.dim), dtype=np.float32),
        time=np.full(len(keys), np.iinfo(np.int64).min),
        tie=np.full(len(keys), np.iinfo(np.int64).min),
    )
    for part in (a, b):
        rows = np.searchsorted(keys, part.keys)
        time, tie = merged.time[rows], merged.tie[rows]
        # >=, so that a row whose time and tie are the smallest int64 still replaces the filler.
        newer = (part.time > time) | ((part.time == time) & (part.tie >= tie))
        rows = rows[newer]
        merged.vector[rows] = part.vector[newer]
        merged.time[rows] = part.time[newer]
        merged.tie[rows] = part.tie[newer]
    return merged


def merge_all_latest(states: Sequence[Latest]) -> Latest:
    """Merge at least one state, left to right."""
    return reduce(merge_latest, states)


def route_latest(ranks: Ranks, latest: Latest) -> Latest:
    """Send rows to the owners of their keys and keep the newest there. Collective."""
    columns = {"keys": latest.keys, "vector": latest.vector, "time": latest.time, "tie": latest.tie}
    return merge_all_latest([Latest(**rows) for rows in exchange_rows(ranks, columns)])
