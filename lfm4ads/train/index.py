"""A FAISS index of item vectors by inner product, searched exactly or nearly, and its files.

Dimension key: N items, Q queries, K wanted, D width.
"""

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import numpy.typing as npt

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json, sha256, write_json

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Kind = Literal["flat", "ivf", "hnsw"]

MANIFEST = "manifest.json"
NOBODY = -1
"""Key of a place that no item fills."""
_FILES = ("items.faiss", "keys.npy")
_CHUNK_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How items are searched."""

    kind: Kind = "flat"
    """flat reads every item; ivf the nearest cells; hnsw walks a graph."""
    cells: int = 0
    """Of ivf; 0: four times the square root of the number of items."""
    probes: int = 32
    """Cells an ivf search reads."""
    neighbours: int = 32
    """Of an item in the graph of hnsw, in each direction."""
    build_effort: int = 200
    search_effort: int = 256
    """Items hnsw keeps in view while it builds and while it searches (at least K)."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "kind" and value < (0 if name == "cells" else 1):
                raise ValueError(f"index.{name} must be positive, got {value}")


@dataclass(frozen=True, kw_only=True)
class IndexHeader:
    """What an index says of itself."""

    version: str
    """Of the model whose space the vectors live in; queries of another mean nothing here."""
    as_of: int
    """YYYYMMDD of the last day whose events the vectors know."""
    dim: int
    items: int
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemIndex:
    """Items and where they lie; FAISS counts them, ``keys`` names them (any int64)."""

    keys: Int64s
    """(N,)."""
    index: Any
    """FAISS's."""
    config: IndexConfig

    def search(self, queries_QD: Float32s, *, k: int) -> tuple[Int64s, Float32s]:
        """Return places in ``keys`` (Q, K) and scores (Q, K), the best first.

        A near search may find fewer than K: the rest are -1 with a score of -infinity.
        """
        check_dim(queries_QD, dim=self.index.d)
        self._set_effort(k)
        scores_QK, places_QK = self.index.search(_plain(queries_QD), k)
        scores_QK[places_QK < 0] = -np.inf
        return places_QK, scores_QK

    def keys_of(self, places: Int64s) -> Int64s:
        """Return the keys of places; ``NOBODY`` where there is none."""
        return np.where(places >= 0, self.keys[np.maximum(places, 0)], NOBODY)

    def _set_effort(self, k: int) -> None:
        match self.config.kind:
            case "flat":
                pass
            case "ivf":
                self.index.nprobe = min(self.config.probes, self.index.nlist)
            case "hnsw":
                self.index.hnsw.efSearch = max(self.config.search_effort, k)


def build_index(keys: Int64s, vectors_ND: Float32s, *, config: IndexConfig) -> ItemIndex:
    """Put items into a new index; an empty catalogue is refused."""
    if not len(keys):
        raise UserError("the catalogue is empty, so there is nothing to index; widen catalogue")
    dim = vectors_ND.shape[1]
    match config.kind:
        case "flat":
            index = faiss.IndexFlatIP(dim)
        case "ivf":
            # FAISS warns below 39 items a cell, and fails below one.
            cells = config.cells or int(4 * len(keys) ** 0.5)
            cells = max(1, min(cells, len(keys) // 39))
            index = faiss.IndexIVFFlat(
                faiss.IndexFlatIP(dim), dim, cells, faiss.METRIC_INNER_PRODUCT
            )
        case "hnsw":
            index = faiss.IndexHNSWFlat(dim, config.neighbours, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = config.build_effort
    vectors_ND = _plain(vectors_ND)
    if not index.is_trained:
        index.train(vectors_ND)
    index.add(vectors_ND)
    return ItemIndex(keys=np.asarray(keys, dtype=np.int64), index=index, config=config)


def search_exact(
    queries_QD: Float32s, vectors_ND: Float32s, *, k: int, hidden: tuple[Int64s, Int64s]
) -> tuple[Int64s, Float32s]:
    """Return the places (Q, K) and scores (Q, K) of the best items by a product with all of them.

    Args:
        queries_QD: Queries.
        vectors_ND: Items.
        k: Wanted; less than K may be left: the rest are -1 with a score of -infinity.
        hidden: Rows of queries, ascending, and places of items that must not be found for them.
    """
    num_queries, num_items = len(queries_QD), len(vectors_ND)
    places_QK = np.full((num_queries, k), -1, dtype=np.int64)
    scores_QK = np.full((num_queries, k), -np.inf, dtype=np.float32)
    step = max(1, _CHUNK_BYTES // (4 * max(num_items, 1)))
    width = min(k, num_items)
    for start in range(0, num_queries, step):
        score_CN = queries_QD[start : start + step] @ vectors_ND.T
        low, high = np.searchsorted(hidden[0], [start, start + len(score_CN)])
        score_CN[hidden[0][low:high] - start, hidden[1][low:high]] = -np.inf
        best_CK = np.argpartition(score_CN, num_items - width, axis=1)[:, num_items - width :]
        best_CK.sort(axis=1)  # of equal scores the first item comes first
        value_CK = np.take_along_axis(score_CN, best_CK, axis=1)
        order_CK = np.argsort(-value_CK, axis=1, kind="stable")
        value_CK = np.take_along_axis(value_CK, order_CK, axis=1)
        best_CK = np.take_along_axis(best_CK, order_CK, axis=1)
        best_CK[np.isneginf(value_CK)] = -1
        places_QK[start : start + step, :width] = best_CK
        scores_QK[start : start + step, :width] = value_CK
    return places_QK, scores_QK


def check_dim(vectors: Float32s, *, dim: int) -> None:
    """Refuse queries of another width than the items'."""
    if vectors.shape[1] != dim:
        raise UserError(
            f"queries are {vectors.shape[1]} wide but the index holds vectors of {dim}; use the"
            " model that the index was built with, or build the index again"
        )


def save_index(folder: Path, index: ItemIndex, *, version: str, as_of: int) -> None:
    """Write the index, its keys and its manifest as a folder that appears whole. Not collective."""
    header = IndexHeader(
        version=version,
        as_of=as_of,
        dim=index.index.d,
        items=len(index.keys),
        config=asdict(index.config),
    )
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    faiss.write_index(index.index, str(temporary / _FILES[0]))
    np.save(temporary / _FILES[1], index.keys)
    files = {
        name: {"bytes": (temporary / name).stat().st_size, "sha256": sha256(temporary / name)}
        for name in _FILES
    }
    write_json(temporary / MANIFEST, {"schema_version": 1, **asdict(header), "files": files})
    replace_folder(temporary, folder)


def replace_folder(temporary: Path, folder: Path) -> None:
    """Put a finished folder into its place; what was there goes."""
    former = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(former, ignore_errors=True)
    if folder.exists():
        folder.rename(former)
    temporary.rename(folder)
    shutil.rmtree(former, ignore_errors=True)


def load_index(folder: Path, *, version: str) -> tuple[ItemIndex, IndexHeader]:
    """Open an index that was written for the model ``version``, or say why not."""
    raw = read_json(folder / MANIFEST)
    if raw.get("schema_version") != 1:
        raise UserError(f"{folder / MANIFEST} is not of this program; build the index again")
    header = IndexHeader(
        version=raw["version"],
        as_of=raw["as_of"],
        dim=raw["dim"],
        items=raw["items"],
        config=raw["config"],
    )
    if header.version != version:
        raise UserError(
            f"{folder} was built for version {header.version}, not {version}; build the index with"
            " the model that makes the queries"
        )
    for name, entry in raw["files"].items():
        path = folder / name
        if not path.is_file() or sha256(path) != entry["sha256"]:
            raise UserError(f"{path} is missing or damaged; build the index again")
    index = faiss.read_index(str(folder / _FILES[0]))
    keys = np.load(folder / _FILES[1])
    if index.d != header.dim or not index.ntotal == len(keys) == header.items:
        raise UserError(f"{folder} disagrees with its {MANIFEST}; build the index again")
    return ItemIndex(keys=keys, index=index, config=IndexConfig(**header.config)), header


def _plain(vectors: Float32s) -> Float32s:
    return np.ascontiguousarray(vectors, dtype=np.float32)
