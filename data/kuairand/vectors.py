"""Vectors of users and videos, as a model of other data would hand them on.

The long views of the log's first days are factorised, and those days are given no vector: a vector
never contains an outcome of its own row or of a later one.
Dimension key: E events, K videos or users with a vector, M videos, U users, V vector length.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

Array = npt.NDArray[Any]

VECTOR_LENGTH = 16
MIN_VIEWERS = 2
"""A video that fewer users long-viewed would be alone in the space."""
_SPARE = 10
"""Directions beyond the wanted ones that the random start carries."""
_TURNS = 8
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """The vectors of those keys of one kind that have one."""

    place: Array
    """Row in ``vectors`` of every key, -1 where it has none (M)."""
    vectors: Array
    """float32 (K, V)."""

    def column(self, index: Array) -> pa.FixedSizeListArray:
        """Return the vectors of keys (N), null where there is none."""
        place = self.place[index]
        known = place >= 0
        values = np.zeros((len(index), VECTOR_LENGTH), dtype=np.float32)
        values[known] = self.vectors[place[known]]
        return pa.FixedSizeListArray.from_arrays(
            pa.array(values.reshape(-1)), VECTOR_LENGTH, mask=pa.array(~known)
        )


@dataclass(frozen=True, kw_only=True)
class Space:
    """Users and videos in one space."""

    users: Vectors
    videos: Vectors


def empty_space(*, num_users: int, num_items: int) -> Space:
    """Return the space in which nobody has a vector."""
    none = np.zeros((0, VECTOR_LENGTH), dtype=np.float32)
    users, videos = (
        Vectors(place=np.full(size, -1, dtype=np.int32), vectors=none)
        for size in (num_users, num_items)
    )
    return Space(users=users, videos=videos)


def fit_space(users: Array, *, items: Array, num_users: int, num_items: int) -> Space:
    """Factorise long views (E), given as indices of users and items.

    A video's vector is its unit row of V S in the truncated decomposition U S V' of
    ``seen / sqrt((1 + videos of the user) (1 + viewers of the video))``; a user's is the mean of
    the vectors of the videos it long-viewed.
    """
    seen_UM = sparse.csr_array(
        (np.ones(len(users)), (users, items)), shape=(num_users, num_items), dtype=np.float64
    )
    seen_UM.data[:] = 1.0
    viewers_M = np.bincount(seen_UM.indices, minlength=num_items)
    chosen = np.flatnonzero(viewers_M >= MIN_VIEWERS)
    if not len(chosen):
        return empty_space(num_users=num_users, num_items=num_items)
    seen_UK = seen_UM[:, chosen]
    unit_KV, kept = _factorise(seen_UK, viewers_K=viewers_M[chosen])
    counts_U = seen_UK[:, kept].sum(axis=1)
    known = np.flatnonzero(counts_U)
    mean_UV = (seen_UK[:, kept] @ unit_KV)[known] / counts_U[known, None]
    return Space(
        users=_vectors(mean_UV, keys=known, size=num_users),
        videos=_vectors(unit_KV, keys=chosen[kept], size=num_items),
    )


def _factorise(seen_UK: sparse.csr_array, *, viewers_K: Array) -> tuple[Array, Array]:
    """Return unit vectors of videos, and which of the videos they are of.

    Randomised subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4); the square
    roots keep popular videos and busy users from being the whole space.
    """
    by_user = 1 / np.sqrt(1 + seen_UK.sum(axis=1))
    by_video = 1 / np.sqrt(1 + viewers_K)
    weighted_UK = sparse.diags_array(by_user) @ seen_UK @ sparse.diags_array(by_video)
    width = min(VECTOR_LENGTH + _SPARE, len(by_user), len(by_video))
    start = np.random.default_rng(_SEED).standard_normal((len(by_video), width))
    basis, _ = np.linalg.qr(start)
    for _ in range(_TURNS):
        basis, _ = np.linalg.qr(weighted_UK.T @ (weighted_UK @ basis))
    _, singular, rotation = np.linalg.svd(weighted_UK @ basis, full_matrices=False)
    vector_KV = (basis @ rotation.T * singular)[:, :VECTOR_LENGTH]
    vector_KV = np.pad(vector_KV, ((0, 0), (0, VECTOR_LENGTH - vector_KV.shape[1])))
    norm_K = np.linalg.norm(vector_KV, axis=1)
    kept = np.flatnonzero(norm_K > 1e-6 * norm_K.max())
    return vector_KV[kept] / norm_K[kept, None], kept


def _vectors(vectors: Array, *, keys: Array, size: int) -> Vectors:
    place = np.full(size, -1, dtype=np.int32)
    place[keys] = np.arange(len(keys))
    return Vectors(place=place, vectors=vectors.astype(np.float32))
