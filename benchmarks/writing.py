"""Writing representations, beside pyarrow writing the same table with the same settings.

    python -m benchmarks.writing --json

``part``: states in memory to a finished part file, as a dump does it: cut into row groups,
converted, compressed, flushed to the disk and renamed. ``snapshot``: that, the moments of every
representation and the file's checksum, as ``write_part``. ``samples``: a day's rows in batches.
pyarrow gets each table ready in memory and neither flushes nor renames. Rounds take turns; the last
line is one JSON object with ``ratios``, medians of pyarrow's time over ours in the same round.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.aggregation_run import peak_bytes
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.decay import State
from lfm4ads.data.latest import Latest
from lfm4ads.data.manifest import Header, RepSpec
from lfm4ads.data.part import (
    ROW_GROUP_ROWS,
    part_schema,
    split_chunks,
    to_table,
    write_table_stream,
)
from lfm4ads.data.reps import write_part
from lfm4ads.data.samples import KEYS, SampleColumns, SamplesWriter
from lfm4ads.data.side import SideStates

BATCH_ROWS = 4_096
DAY = 20260105


def specs_of(dim: int) -> tuple[RepSpec, ...]:
    """Return a latest vector and two decayed sums."""
    decayed = [
        RepSpec(name=name, side="user", kind="decayed", dim=dim, read="layernorm", half_life=6e8)
        for name in ("cr_ads", "cr_content")
    ]
    return (RepSpec(name="ur", side="user", kind="latest", dim=dim, read="sum"), *decayed)


def make_states(num_keys: int, dim: int) -> SideStates:
    """Draw states; ``cr_ads`` is there for every other key."""
    rng = np.random.default_rng(5)
    keys = np.sort(rng.choice(2**40, num_keys, replace=False))

    def state(some: slice, width: int) -> State:
        count = len(keys[some])
        return State(
            keys=keys[some],
            sum=rng.standard_normal((count, width)),
            weight=1.0 + rng.random(count),
            time=rng.integers(0, 2**41, count),
            events=rng.integers(1, 100, count),
        )

    every = slice(None)
    vector = rng.standard_normal((num_keys, dim), dtype=np.float32)
    times = rng.integers(0, 2**41, num_keys)
    return SideStates(
        counts=state(every, 0),
        decayed={"cr_ads": state(slice(None, None, 2), dim), "cr_content": state(every, dim)},
        latest={"ur": Latest(keys=keys, vector=vector, time=times, tie=times)},
    )


def write_pyarrow(path: Path, table: pa.Table) -> None:
    """Write with the settings of a part."""
    pq.write_table(
        table, path, compression="zstd", use_dictionary=False, row_group_size=ROW_GROUP_ROWS
    )


Job = Callable[[Path], None]


def part_jobs(states: SideStates, specs: tuple[RepSpec, ...]) -> tuple[dict[str, Job], pa.Table]:
    """Return our ways to write a part, and the table that they write."""
    header = Header(
        upstream="a1", as_of=DAY, checkpoint_day=DAY, trained_through=DAY, representations=specs
    )

    def part(folder: Path) -> None:
        tables = (to_table(chunk, specs) for chunk in split_chunks([states]))
        write_table_stream(folder / "part.parquet", tables, schema=part_schema(specs))

    def snapshot(folder: Path) -> None:
        write_part(folder, header=header, side="user", rank=0, world=1, states=states)

    return {"part": part, "snapshot": snapshot}, to_table(states, specs)


def samples_job(num_rows: int, dim: int) -> tuple[Job, pa.Table]:
    """Return how a day's rows are written in batches, and their table."""
    rng = np.random.default_rng(6)
    columns = SampleColumns(labels=("click",), layers={"top": dim})
    keys = {name: pa.array(rng.integers(0, 2**40, num_rows)) for name in KEYS}
    keys["label_click"] = pa.array(rng.integers(0, 2, num_rows).astype(np.int8))
    vectors = rng.standard_normal((num_rows, dim), dtype=np.float32)
    alone = Ranks(rank=0, world=1, device=torch.device("cpu"))

    def samples(folder: Path) -> None:
        writer = SamplesWriter(folder, version="a1", day=DAY, ranks=alone, columns=columns)
        for start in range(0, num_rows, BATCH_ROWS):
            batch = {name: column.slice(start, BATCH_ROWS) for name, column in keys.items()}
            writer.add(batch, vectors[start : start + BATCH_ROWS])
        writer.finish(checkpoint_day=DAY)

    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim)
    names = columns.schema().names[:-1]
    arrays = [*(keys[name] for name in names), lists]
    return samples, pa.Table.from_arrays(arrays, schema=columns.schema())


def timed(job: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds and the CPU seconds of all threads."""
    start, cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - start, time.process_time() - cpu


def measure(name: str, ours: Job, table: pa.Table, *, rounds: int) -> dict[str, Any]:
    """Let both take turns on fresh folders, after a round that does not count."""
    taken: dict[str, list[tuple[float, float]]] = {"ours": [], "pyarrow": []}
    num_bytes: dict[str, int] = {}
    for _ in range(rounds + 1):
        for who, times in taken.items():
            with tempfile.TemporaryDirectory() as path:
                folder = Path(path)
                target = folder / "pyarrow.parquet"
                job = (
                    (lambda at=folder: ours(at))
                    if who == "ours"
                    else (lambda at=target: write_pyarrow(at, table))
                )
                times.append(timed(job))
                num_bytes[who] = sum(one.stat().st_size for one in folder.rglob("*.parquet"))
    seconds = {who: [one[0] for one in both[1:]] for who, both in taken.items()}
    cpu = {who: [one[1] for one in both[1:]] for who, both in taken.items()}
    result = {
        "ratio": median(np.divide(seconds["pyarrow"], seconds["ours"])),
        "ratio_cpu": median(np.divide(cpu["pyarrow"], cpu["ours"])),
        "rows_per_second": {who: len(table) / median(one) for who, one in seconds.items()},
        "bytes_per_second": {who: table.nbytes / median(one) for who, one in seconds.items()},
        "file_bytes": num_bytes,
        "seconds": seconds,
        "cpu_seconds": cpu,
    }
    print(
        f"{name}: ours {result['rows_per_second']['ours']:,.0f} rows/s, ratio"
        f" {result['ratio']:.2f} (by CPU time {result['ratio_cpu']:.2f})",
        flush=True,
    )
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    pa.set_cpu_count(words.threads)
    specs = specs_of(words.dim)
    jobs, table = part_jobs(make_states(words.rows, words.dim), specs)
    results = {name: measure(name, job, table, rounds=words.rounds) for name, job in jobs.items()}
    samples, table = samples_job(words.rows, words.dim)
    results["samples"] = measure("samples", samples, table, rounds=words.rounds)
    ratios = {name: one["ratio"] for name, one in results.items()}
    ratios |= {f"{name}_cpu": one["ratio_cpu"] for name, one in results.items()}
    says = {"ratios": ratios, "threads": words.threads, "rows": words.rows, "dim": words.dim}
    if words.json:
        print(json.dumps(says | {"peak_bytes": peak_bytes(), "writers": results}, default=float))


if __name__ == "__main__":
    main()
