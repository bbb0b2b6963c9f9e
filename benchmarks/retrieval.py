"""Near searches against the exact one, and our index against FAISS alone.

    python -m benchmarks.retrieval --json

The last line is one JSON object; ``ratios`` holds what should not change: recall of the exact top
100, and queries a second against flat and against FAISS without our index around it. Items lie in
clumps, as learnt vectors do; one thread.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from lfm4ads.train.index import IndexConfig, build_index, search_exact

Float32s = npt.NDArray[np.float32]

DIM, K, QUERIES, ROUNDS = 64, 100, 512, 7
_NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64))
KINDS = {
    "ivf_8": IndexConfig(kind="ivf", probes=8),
    "ivf_32": IndexConfig(kind="ivf", probes=32),
    "ivf_128": IndexConfig(kind="ivf", probes=128),
    "hnsw_128": IndexConfig(kind="hnsw", build_effort=80, search_effort=128),
    "hnsw_512": IndexConfig(kind="hnsw", build_effort=80, search_effort=512),
}


def draw(items: int) -> tuple[Float32s, Float32s]:
    """Return item vectors (items, 64) and queries (512, 64) around a thousand centres."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1000, DIM))
    vectors = centres[rng.integers(1000, size=items)] + 0.5 * rng.normal(size=(items, DIM))
    queries = centres[rng.integers(1000, size=QUERIES)] + 0.5 * rng.normal(size=(QUERIES, DIM))
    return vectors.astype(np.float32), queries.astype(np.float32)


def seconds(work: Callable[[], Any], *, times: int = 3) -> float:
    """Return the shortest of some runs."""
    taken: list[float] = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)


def recall(found: npt.NDArray[np.int64], exact: npt.NDArray[np.int64]) -> float:
    """Return the share of the exact lists' items that are found."""
    rows = np.arange(len(exact))[:, None] << 40
    return float(np.isin(exact + rows, found + rows).mean())


def measure(items: int, *, kinds: dict[str, IndexConfig]) -> Iterator[dict[str, Any]]:
    """Yield a row a kind of index."""
    vectors, queries = draw(items)
    keys = np.arange(items) + 2**62
    exact, _ = search_exact(queries, vectors, k=K, hidden=_NOTHING)
    product = seconds(lambda: search_exact(queries, vectors, k=K, hidden=_NOTHING))
    flat = 0.0
    for name, config in {"flat": IndexConfig(), **kinds}.items():
        started = time.perf_counter()
        index = build_index(keys, vectors, config=config)
        build = time.perf_counter() - started
        taken = seconds(lambda index=index: index.search(queries, k=K))
        flat = flat or taken
        # The index's own FAISS, at the effort it was just searched with; in turns.
        pairs = [
            (
                seconds(lambda index=index: index.index.search(queries, K), times=1),
                seconds(lambda index=index: index.search(queries, k=K), times=1),
            )
            for _ in range(ROUNDS)
        ]
        yield {
            "items": items,
            "kind": name,
            "recall": recall(index.search(queries, k=K)[0], exact),
            "queries_per_second": QUERIES / taken,
            "against_flat": flat / taken,
            "against_faiss": median(bare / own for bare, own in pairs),
            "build_seconds": build,
            "exact_queries_per_second": QUERIES / product,
        }


def main() -> None:
    """Print a table, or with --json one object in the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--items", type=int, nargs="*", default=[20_000, 200_000])
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for row in (row for items in options.items for row in measure(items, kinds=KINDS)):
        rows.append(row)
        print(
            f"{row['items']:>9,} {row['kind']:>9}  recall {row['recall']:.4f}"
            f"  {row['queries_per_second']:>9,.0f} queries/s, {row['against_flat']:6.2f} x flat,"
            f" {row['against_faiss']:.2f} x FAISS alone, built in {row['build_seconds']:.1f} s",
            flush=True,
        )
    ratios = {
        f"{row['kind']}/{row['items']}/{name}": row[name]
        for row in rows
        for name in ("recall", "against_flat", "against_faiss")
    }
    if options.json:
        print(json.dumps({"rows": rows, "ratios": ratios}))


if __name__ == "__main__":
    main()
