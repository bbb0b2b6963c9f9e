"""The top K of every user, through the index, as Parquet that is there whole or not at all.

Dimension key: U users, K items of a list.
"""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import sha256, whole_file, write_json
from lfm4ads.core.ranks import Ranks
from lfm4ads.train.index import (
    MANIFEST,
    IndexConfig,
    ItemIndex,
    build_index,
    load_index,
    replace_folder,
    save_index,
    search_exact,
)
from lfm4ads.train.interactions import Pairs
from lfm4ads.train.retrieved import Truth, check_k, hidden_places
from lfm4ads.train.space import DaySpace

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]

_CHUNK_USERS = 4096
_SCHEMA = pa.schema(
    [("user", pa.int64()), ("item", pa.int64()), ("score", pa.float32()), ("rank", pa.int32())]
)


def serve(
    folder: Path,
    space: DaySpace,
    truth: Truth,
    *,
    config: IndexConfig,
    k: int,
    version: str,
    ranks: Ranks,
) -> dict[str, Any]:
    """Write a day's index and lists, and return how both went, for ``report.json``. Collective.

    Rank 0 builds the index; all ranks search it from its file.

    Args:
        folder: Gets ``index/day=<day>`` and ``lists/day=<day>``.
        space: What is known before the day.
        truth: Its targets' users are who the index is judged on.
        config: Kind of index.
        k: Length of the lists.
        version: Of the model whose space it is.
        ranks: The job.
    """
    where = folder / "index" / f"day={space.day}"
    started = time.monotonic()
    with ranks.together():
        if ranks.is_first:
            index = build_index(space.items, space.vectors, config=config)
            save_index(where, index, version=version, as_of=space.as_of)
    build_seconds = time.monotonic() - started
    indexes: list[ItemIndex] = []
    with ranks.together():
        indexes.append(load_index(where, version=version)[0])
    near = compare(indexes[0], space, truth, k=k, ranks=ranks)
    lists = folder / "lists" / f"day={space.day}"
    users = write_top_lists(
        lists, indexes[0], space, seen=truth.seen, k=k, version=version, ranks=ranks
    )
    return {
        "day": space.day,
        "as_of": space.as_of,
        "items": len(space.items),
        "users": users,
        "build_seconds": build_seconds,
        **asdict(near),
    }


@dataclass(frozen=True, kw_only=True)
class AnnFigures:
    """How near an index comes to the exact search, on one day's users."""

    kind: str
    k: int
    recall: float | None
    """Share of the exact top K that it finds, seen items removed from both."""
    queries: int
    queries_per_second: float
    exact_queries_per_second: float


def search_unseen(
    index: ItemIndex, queries_UD: Float32s, *, k: int, hidden: tuple[Int64s, Int64s]
) -> tuple[Int64s, Float32s]:
    """Return the places (U, K) and scores of the best items that are not hidden; -1 fills up.

    The index knows no users, so each search asks for as many more as a user of it has hidden.
    """
    more = int(np.bincount(hidden[0]).max()) if len(hidden[0]) else 0
    num_items = len(index.keys)
    places, scores = index.search(queries_UD, k=min(k + more, num_items))
    rows = np.arange(len(places))[:, None]
    taken = np.isin(rows * num_items + places, hidden[0] * num_items + hidden[1]) | (places < 0)
    order = np.argsort(taken, axis=1, kind="stable")[:, :k]
    places = np.take_along_axis(np.where(taken, -1, places), order, axis=1)
    scores = np.take_along_axis(np.where(taken, -np.inf, scores), order, axis=1)
    return places, scores.astype(np.float32)


def compare(index: ItemIndex, space: DaySpace, truth: Truth, *, k: int, ranks: Ranks) -> AnnFigures:
    """Search the day's users both ways. Collective."""
    found = np.zeros(4)
    with ranks.together():
        check_k(k, space)
        users_U = np.unique(truth.targets[space.day].user)
        queries_UD = space.queries(users_U)
        hidden = hidden_places(truth.seen, users_U, items=space.items)
        started = time.perf_counter()
        exact, _ = search_exact(queries_UD, space.vectors, k=k, hidden=hidden)
        between = time.perf_counter()
        near, _ = search_unseen(index, queries_UD, k=k, hidden=hidden)
        ended = time.perf_counter()
        rows = np.arange(len(users_U))[:, None] * len(space.items)
        hits = np.isin((exact + rows)[exact >= 0], (near + rows)[near >= 0])
        found = np.array([hits.sum(), hits.size, len(users_U), 0.0])
        times = np.array([ended - between, between - started])
    hit, wanted, users, _ = ranks.sum(found)
    # Ranks search side by side; the slowest decides.
    near_seconds, exact_seconds = np.stack(ranks.gather(times)).max(axis=0)
    return AnnFigures(
        kind=index.config.kind,
        k=k,
        recall=hit / wanted if wanted else None,
        queries=int(users),
        queries_per_second=users / max(near_seconds, 1e-9),
        exact_queries_per_second=users / max(exact_seconds, 1e-9),
    )


def write_top_lists(
    folder: Path,
    index: ItemIndex,
    space: DaySpace,
    *,
    seen: Pairs,
    k: int,
    version: str,
    ranks: Ranks,
) -> int:
    """Write ``user, item, score, rank`` of all known users; return their number. Collective.

    Each rank writes the users that it owns; the folder appears when all have. ``rank`` counts from
    1.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    entry: dict[str, Any] = {}
    with ranks.together():
        if ranks.is_first:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
    with ranks.together():
        path = temporary / f"part-{ranks.rank:05d}.parquet"
        rows = 0
        with (
            whole_file(path) as hidden_path,
            pq.ParquetWriter(hidden_path, _SCHEMA, compression="zstd") as writer,
        ):
            for table in _tables(index, space, seen=seen, k=k):
                writer.write_table(table)
                rows += table.num_rows
        entry |= {
            "path": path.name,
            "users": len(space.users),
            "rows": rows,
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
    files = [json.loads(text) for text in ranks.texts(json.dumps(entry))]
    users = sum(file["users"] for file in files)
    with ranks.together():
        if ranks.is_first:
            write_json(
                temporary / MANIFEST,
                {
                    "schema_version": 1,
                    "version": version,
                    "day": space.day,
                    "as_of": space.as_of,
                    "k": k,
                    "users": users,
                    "index": asdict(index.config),
                    "files": files,
                },
            )
            replace_folder(temporary, folder)
    return users


def _tables(index: ItemIndex, space: DaySpace, *, seen: Pairs, k: int) -> Iterator[pa.Table]:
    for start in range(0, len(space.users), _CHUNK_USERS):
        users_U = space.users[start : start + _CHUNK_USERS]
        hidden = hidden_places(seen, users_U, items=space.items)
        places, scores = search_unseen(index, space.queries(users_U), k=k, hidden=hidden)
        if not np.isfinite(scores[places >= 0]).all():
            raise UserError(
                f"a score of day {space.day} is not finite; train again with a lower learning rate"
            )
        there = places >= 0
        rank = np.broadcast_to(np.arange(1, places.shape[1] + 1), places.shape)
        columns = [
            np.repeat(users_U, there.sum(1)),
            index.keys[places[there]],
            scores[there],
            rank[there].astype(np.int32),
        ]
        yield pa.Table.from_arrays([pa.array(column) for column in columns], schema=_SCHEMA)
