"""Decayed sums of 10 million events, beside DuckDB on the same file with as many threads.

    python -m benchmarks.aggregation --json

The last line is one JSON object with ``ratios``: our rows a second over DuckDB's, by mode. Ours
reads the Parquet file in pieces, a piece ahead in a thread, and folds them as a dump folds batches;
DuckDB runs the fastest query that was found. Both results are compared key by key.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lfm4ads.core.files import whole_file
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.accumulate import SideAccumulator
from lfm4ads.data.decay import State
from lfm4ads.data.manifest import RepSpec
from lfm4ads.data.ordinals import empty_tally, ordinals
from lfm4ads.data.prefetch import prefetch
from lfm4ads.data.slots import SlotRows

Array = npt.NDArray[Any]
Mode = Literal["time", "events"]

CHUNK_ROWS = 65_536
DAYS = 7
DAY_MS = 86_400_000
HALF_LIVES: dict[Mode, float] = {"time": 7.0 * DAY_MS, "events": 68.97}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is aggregated."""

    rows: int
    keys: int
    dim: int


def write_events(path: Path, shape: Shape) -> None:
    """Write events in order of time; keys are Zipf-like, so some are hot."""
    schema = pa.schema(
        [
            *(pa.field(name, pa.int64()) for name in ("key", "time", "row_id")),
            pa.field("vector", pa.list_(pa.float32(), shape.dim)),
        ]
    )
    rng = np.random.default_rng(17)
    with (
        whole_file(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="none", use_dictionary=False) as writer,
    ):
        for start in range(0, shape.rows, CHUNK_ROWS):
            rows = np.arange(start, min(start + CHUNK_ROWS, shape.rows))
            keys = (shape.keys * rng.random(len(rows)) ** 2).astype(np.int64)
            times = rows * (DAYS * DAY_MS) // shape.rows
            flat = rng.standard_normal(len(rows) * shape.dim, dtype=np.float32)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat), shape.dim)
            arrays = [pa.array(keys), pa.array(times), pa.array(rows), vectors]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def ours(path: Path, shape: Shape, mode: Mode) -> State:
    """Fold the file in pieces, as a dump folds batches."""
    spec = RepSpec(
        name="cr",
        side="user",
        kind="decayed",
        dim=shape.dim,
        read="sum",
        clock=mode,
        half_life=HALF_LIVES[mode],
    )
    accumulator = SideAccumulator([spec])
    counted = _ordinals(path) if mode == "events" else None
    done = 0
    for table in prefetch(_pieces(path), depth=1):
        vectors = table["vector"].combine_chunks().flatten().to_numpy()
        rows = slice(done, done + len(table))
        accumulator.add(
            "cr",
            keys=table["key"].to_numpy(),
            vectors=vectors.reshape(-1, shape.dim),
            times=table["time"].to_numpy() if counted is None else counted[rows],
            row_ids=table["row_id"].to_numpy(),
        )
        done += len(table)
    return accumulator.finish().decayed["cr"]


def _pieces(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, use_threads=False)


def _ordinals(path: Path) -> Array:
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


def duckdb_query(path: Path, shape: Shape, mode: Mode) -> str:
    """Return the fastest of the queries that were tried.

    The ages of events come from the small columns alone and are joined to the vectors; a window
    over rows with vectors took 1.1 to 1.5 times as long, and UNNEST, which makes a row of each
    dimension, 10 times.
    """
    file = f"read_parquet('{path}')"
    sums = ", ".join(f"sum(w * vector[{dim + 1}]) AS s{dim}" for dim in range(shape.dim))
    if mode == "time":
        ages = f'SELECT key AS k, max("time") AS last FROM {file} GROUP BY key'
        age, where = 'last - "time"', "key = ages.k"
    else:
        nth = 'row_number() OVER (PARTITION BY key ORDER BY "time", row_id)'
        ages = f"SELECT row_id AS r, count(*) OVER (PARTITION BY key) - {nth} AS age FROM {file}"
        age, where = "age", "row_id = ages.r"
    weight = f"exp(-ln(2) * ({age}) / {HALF_LIVES[mode]}) AS w"
    joined = f"SELECT key, vector, {weight} FROM {file} JOIN ages ON {where}"
    return f"WITH ages AS ({ages}), e AS ({joined}) SELECT key, {sums} FROM e GROUP BY key"


def theirs(path: Path, shape: Shape, mode: Mode, *, threads: int) -> pa.Table:
    """Return a row a key with a column a dimension, from DuckDB."""
    config = {"threads": threads, "memory_limit": "6GB", "temp_directory": str(path.parent)}
    with duckdb.connect(config=config) as connection:
        return connection.sql(duckdb_query(path, shape, mode)).to_arrow_table()


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What some runs took, and what the last one gave."""

    seconds: list[float]
    cpu_seconds: list[float]
    """Of all threads: what a busy machine distorts less."""
    result: Any


def timed(run: Callable[[], Any], runs: int) -> Timed:
    """Run some times."""
    seconds, cpu_seconds, result = [], [], None
    for _ in range(runs):
        result = None
        start, cpu = time.perf_counter(), time.process_time()
        result = run()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu)
    return Timed(seconds=seconds, cpu_seconds=cpu_seconds, result=result)


def difference(state: State, table: pa.Table) -> float:
    """Return the largest difference of two sums, over the largest sum; keys must be equal."""
    table = table.sort_by("key")
    if table["key"].to_numpy().tolist() != state.keys.tolist():
        raise AssertionError("the keys differ")
    other = np.stack([table[f"s{dim}"].to_numpy() for dim in range(state.dim)], axis=1)
    return float(np.abs(other - state.sum).max() / np.abs(state.sum).max())


def measure(path: Path, shape: Shape, mode: Mode, *, threads: int, runs: int) -> dict[str, Any]:
    """Run both in one mode and compare what they give."""
    mine = timed(lambda: ours(path, shape, mode), runs)
    other = timed(lambda: theirs(path, shape, mode, threads=threads), runs)
    gap = difference(mine.result, other.result)
    if not gap < 1e-6:
        raise AssertionError(f"the sums differ by {gap} of the largest")
    rates = [shape.rows / statistics.median(one.seconds) for one in (mine, other)]
    cpu = [statistics.median(one.cpu_seconds) for one in (mine, other)]
    print(
        f"{mode}: ours {rates[0]:,.0f} rows/s, DuckDB {rates[1]:,.0f} rows/s,"
        f" ratio {rates[0] / rates[1]:.2f} (by CPU time {cpu[1] / cpu[0]:.2f}),"
        f" largest difference {gap:.1e}"
    )
    return {
        "seconds": mine.seconds,
        "duckdb_seconds": other.seconds,
        "rows_per_second": rates[0],
        "duckdb_rows_per_second": rates[1],
        "rows_per_cpu_second": shape.rows / cpu[0],
        "duckdb_rows_per_cpu_second": shape.rows / cpu[1],
        "largest_difference": gap,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--file", type=Path, help="keep the events here, or take them from here")
    parser.add_argument("--mode", choices=list(HALF_LIVES), action="append")
    words = parser.parse_args()
    shape = Shape(rows=words.rows, keys=words.keys, dim=words.dim)
    torch.set_num_threads(words.threads)
    pa.set_cpu_count(words.threads)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = words.file or Path(folder) / "events.parquet"
        if not path.exists():
            write_events(path, shape)
        for mode in words.mode or HALF_LIVES:
            result[mode] = measure(path, shape, mode, threads=words.threads, runs=words.runs)
    ratios = {
        mode + suffix: one[f"rows_per_{unit}"] / one[f"duckdb_rows_per_{unit}"]
        for mode, one in result.items()
        for suffix, unit in (("", "second"), ("_cpu", "cpu_second"))
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if words.json:
        says = {"ratios": ratios, "peak_bytes": peak, "threads": words.threads}
        print(json.dumps(says | {"shape": vars(shape), "modes": result}))


if __name__ == "__main__":
    main()
