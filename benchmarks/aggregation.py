"""Decayed sums of 10 million events, beside DuckDB and Polars on the same file, equal threads.

    python -m benchmarks.aggregation --json

The last line is one JSON object with ``ratios``: per mode our rows a second over those of the
faster of the two, by wall (``time``) and by CPU time (``time_cpu``), and over each. Every run is a
process of its own (``benchmarks.aggregation_run``), they take turns, and figures are medians. Ours
reads the Parquet file in pieces, a piece ahead in a thread, and folds them as a dump folds batches.
The sums of all three are compared key by key. Polars is a peer: ``pip install polars``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.aggregation_peers import Mode
from benchmarks.aggregation_run import DAY_MS
from lfm4ads.core.files import whole_file

Who = Literal["ours", "duckdb", "polars"]
Peer = Literal["duckdb", "polars"]
Runs = dict[Who, list[dict[str, float]]]

CHUNK_ROWS = 65_536
DAYS = 7


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is aggregated."""

    rows: int
    keys: int
    dim: int
    spread_keys: bool
    """Keys over all of 64 bits, as hashed ids are, instead of counting up from 0."""


def write_events(path: Path, shape: Shape) -> None:
    """Write events in order of time; keys are Zipf-like, so some are hot."""
    schema = pa.schema(
        [
            *(pa.field(name, pa.int64()) for name in ("key", "time", "row_id")),
            pa.field("vector", pa.list_(pa.float32(), shape.dim)),
        ]
    )
    rng = np.random.default_rng(17)
    ids = np.arange(shape.keys)
    if shape.spread_keys:
        ids = rng.integers(-(2**63), 2**63 - 1, shape.keys)
    with (
        whole_file(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="none", use_dictionary=False) as writer,
    ):
        for start in range(0, shape.rows, CHUNK_ROWS):
            rows = np.arange(start, min(start + CHUNK_ROWS, shape.rows))
            keys = ids[(shape.keys * rng.random(len(rows)) ** 2).astype(np.int64)]
            times = rows * (DAYS * DAY_MS) // shape.rows
            flat = rng.standard_normal(len(rows) * shape.dim, dtype=np.float32)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat), shape.dim)
            arrays = [pa.array(keys), pa.array(times), pa.array(rows), vectors]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def run_once(who: Who, path: Path, mode: Mode, *, threads: int, save: Path | None) -> Any:
    """Run one aggregate in a process of its own; return what it says it took."""
    words = [sys.executable, "-m", "benchmarks.aggregation_run", "--who", who, "--mode", mode]
    words += ["--file", str(path), "--threads", str(threads)]
    words += [] if save is None else ["--save", str(save)]
    limits = {"POLARS_MAX_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        words, env=os.environ | limits, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def difference(folder: Path, mode: Mode, peer: Peer) -> float:
    """Return the largest difference of two sums, over the largest sum; keys must be equal."""
    with np.load(saved(folder, mode, "ours")) as mine, np.load(saved(folder, mode, peer)) as other:
        if not np.array_equal(mine["keys"], other["keys"]):
            raise AssertionError(f"the keys of {peer} differ")
        sums = mine["sums"]
        gap = float(np.abs(other["sums"] - sums).max() / np.abs(sums).max())
    if not gap < 1e-6:
        raise AssertionError(f"the sums of {peer} differ by {gap} of the largest")
    return gap


def saved(folder: Path, mode: Mode, who: Who) -> Path:
    """Return where a program's sums lie, to be compared."""
    return folder / f"{mode}-{who}.npz"


def measure(path: Path, mode: Mode, *, folder: Path, threads: int, rounds: int) -> Runs:
    """Let all three take turns; the first round's sums are kept."""
    runs: Runs = {who: [] for who in get_args(Who)}
    for turn in range(rounds):
        for who, taken in runs.items():
            save = saved(folder, mode, who) if turn == 0 else None
            taken.append(run_once(who, path, mode, threads=threads, save=save))
            print(f"{mode} {who}: {taken[-1]}", flush=True)
    return runs


def ratios_of(runs: Runs, mode: Mode) -> dict[str, float]:
    """Return medians over rounds of a peer's cost over ours in that round."""
    ratios: dict[str, float] = {}
    for unit, suffix in (("seconds", ""), ("cpu_seconds", "_cpu")):
        mine = [one[unit] for one in runs["ours"]]
        others = {peer: [one[unit] for one in runs[peer]] for peer in get_args(Peer)}
        for peer, theirs in others.items():
            pairs = zip(theirs, mine, strict=True)
            ratios[f"{mode}{suffix}_{peer}"] = median(other / own for other, own in pairs)
        ratios[mode + suffix] = min(ratios[f"{mode}{suffix}_{peer}"] for peer in others)
    return ratios


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--spread-keys", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--file", type=Path, help="keep the events here, or take them from here")
    parser.add_argument("--mode", choices=get_args(Mode), action="append")
    words = parser.parse_args()
    shape = Shape(rows=words.rows, keys=words.keys, dim=words.dim, spread_keys=words.spread_keys)
    says: dict[str, Any] = {"ratios": {}, "threads": words.threads, "shape": vars(shape)}
    says |= {"peak_bytes": {}, "rows_per_second": {}, "rows_per_cpu_second": {}, "difference": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = words.file or folder / "events.parquet"
        if not path.exists():
            write_events(path, shape)
        for mode in words.mode or get_args(Mode):
            runs = measure(path, mode, folder=folder, threads=words.threads, rounds=words.rounds)
            says["ratios"] |= ratios_of(runs, mode)
            for peer in get_args(Peer):
                says["difference"][f"{mode}_{peer}"] = difference(folder, mode, peer)
            for who, taken in runs.items():
                add_figures(says, f"{mode}_{who}", taken, shape)
    for name, ratio in says["ratios"].items():
        print(f"{name}: {ratio:.2f}")
    if words.json:
        print(json.dumps(says))


def add_figures(
    says: dict[str, Any], name: str, taken: list[dict[str, float]], shape: Shape
) -> None:
    """Add a program's medians."""
    says["rows_per_second"][name] = shape.rows / median(one["seconds"] for one in taken)
    says["rows_per_cpu_second"][name] = shape.rows / median(one["cpu_seconds"] for one in taken)
    says["peak_bytes"][name] = median(one["peak_bytes"] for one in taken)


if __name__ == "__main__":
    main()
