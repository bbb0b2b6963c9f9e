"""One decayed aggregate, by one of three programs, in a process of its own.

    python -m benchmarks.aggregation_run --who ours --mode time --file events.parquet --threads 2

``benchmarks.aggregation`` starts it. The last line is one JSON object: seconds, CPU seconds of all
threads, and the peak of memory before and after, for the imports of the three differ.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.aggregation_peers import Mode, run_duckdb, run_polars, sorted_sums
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.accumulate import SideAccumulator
from lfm4ads.data.decay import Int64s, State
from lfm4ads.data.manifest import RepSpec
from lfm4ads.data.ordinals import empty_tally, ordinals
from lfm4ads.data.prefetch import prefetch
from lfm4ads.data.slots import SlotRows

DAY_MS = 86_400_000
HALF_LIVES: dict[Mode, float] = {"time": 7.0 * DAY_MS, "events": 68.97}


def run_ours(path: Path, mode: Mode, *, dim: int, half_life: float) -> Callable[[], State]:
    """Return what folds the file in pieces, as a dump folds batches."""
    spec = RepSpec(
        name="cr",
        side="user",
        kind="decayed",
        dim=dim,
        read="sum",
        clock=mode,
        half_life=half_life,
    )

    def run() -> State:
        accumulator = SideAccumulator([spec])
        counted = _ordinals(path) if mode == "events" else None
        done = 0
        for table in prefetch(_pieces(path), depth=1):
            vectors = table["vector"].combine_chunks().flatten().to_numpy()
            rows = slice(done, done + len(table))
            accumulator.add(
                "cr",
                keys=table["key"].to_numpy(),
                vectors=vectors.reshape(-1, dim),
                times=table["time"].to_numpy() if counted is None else counted[rows],
                row_ids=table["row_id"].to_numpy(),
            )
            done += len(table)
        return accumulator.finish().decayed["cr"]

    return run


def _pieces(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, use_threads=False)


def _ordinals(path: Path) -> Int64s:
    table = pq.read_table(path, columns=["key", "time", "row_id"])
    keys = table["key"].to_numpy()
    rows = SlotRows(
        keys={"user": keys},
        time=table["time"].to_numpy(),
        row_id=table["row_id"].to_numpy(),
        group=np.zeros(len(keys), np.int64),
        marks=np.ones((len(keys), 1), np.bool_),
    )
    alone = Ranks(rank=0, world=1, device=torch.device("cpu"))
    tally = empty_tally(
        num_groups=1, num_events=1, before=lambda keys: np.zeros((len(keys), 1), np.int64)
    )
    return ordinals(alone, rows, side="user", tally=tally)[:, 0]


def peak_bytes() -> int:
    """Return the peak of this process's memory so far; getrusage tells its parent's too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    if found is None:
        raise OSError("/proc/self/status has no VmHWM")
    return int(found[1]) * 1024


def main() -> None:
    """Run one aggregate and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--who", choices=["ours", "duckdb", "polars"], required=True)
    parser.add_argument("--mode", choices=get_args(Mode), required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--save", type=Path, help="write keys and sums here, as .npz")
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    pa.set_cpu_count(words.threads)
    dim = pq.read_schema(words.file).field("vector").type.list_size
    about: dict[str, Any] = {"dim": dim, "half_life": HALF_LIVES[words.mode]}
    match words.who:
        case "ours":
            run = run_ours(words.file, words.mode, **about)
        case "duckdb":
            run = run_duckdb(words.file, words.mode, threads=words.threads, **about)
        case _:
            run = run_polars(words.file, words.mode, **about)
    before = peak_bytes()
    start, cpu = time.perf_counter(), time.process_time()
    result = run()
    says = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    says |= {"peak_bytes": peak_bytes(), "peak_bytes_before": before}
    if words.save is not None:
        if isinstance(result, State):
            keys, sums = result.keys, result.sum
        else:
            keys, sums = sorted_sums(result, dim=dim)
        np.savez(words.save, keys=keys, sums=sums)
    print(json.dumps(says))


if __name__ == "__main__":
    main()
