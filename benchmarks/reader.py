"""Parquet to batches, beside pyarrow's own ``read_table`` of the same columns.

    python -m benchmarks.reader --json

30 sparse features (18 ids, 10 lists of up to 9, two sequences of 50 with times) and 13 numbers; and
26 ids. Ours checks every value, hashes ids, shuffles and makes batches; ``read_table`` does not.
Both read warm files with as many threads and take turns. The last line is one JSON object with
``ratios``: rows a second of ours over pyarrow's, by wall clock and by CPU time, medians.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.logs import Shape, write_logs
from lfm4ads.core.ranks import Ranks, open_ranks
from lfm4ads.data.columns import needed_columns
from lfm4ads.data.index import Dataset, open_dataset
from lfm4ads.data.reader import Reader, ReaderConfig


def ours(dataset: Dataset, ranks: Ranks, *, day: int) -> int:
    """Read a day as a training stage does; return its rows."""
    reader = Reader(dataset, config=ReaderConfig(), ranks=ranks, seed=0, final_labels=False)
    return sum(len(batch) for batch in reader.day(day))


def theirs(dataset: Dataset, *, day: int) -> int:
    """Read the columns of a day as tables; return its rows."""
    columns = needed_columns(dataset.schema)
    files = {group.file for group in dataset.groups(day)}
    return sum(len(pq.read_table(dataset.path / file, columns=columns)) for file in files)


def timed(run: Callable[[], int]) -> tuple[float, float]:
    """Return rows a second of wall clock and of CPU time."""
    started, cpu = time.perf_counter(), time.process_time()
    rows = run()
    return rows / (time.perf_counter() - started), rows / (time.process_time() - cpu)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=131_072)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    pa.set_cpu_count(words.threads)
    shapes = {
        "26 ids, 13 numbers": Shape(rows=words.rows),
        "30 sparse, 10 lists, 2 sequences": Shape(rows=words.rows, ids=18, lists=10, sequences=2),
    }
    ratios: dict[str, float] = {}
    rates: dict[str, dict[str, float]] = {}
    with open_ranks() as ranks, tempfile.TemporaryDirectory() as folder:
        for name, shape in shapes.items():
            path = Path(folder) / name
            day = write_logs(path, shape)[0]
            dataset = open_dataset(path, ranks)
            runs = {
                "ours": lambda data=dataset, day=day: ours(data, ranks, day=day),
                "pyarrow": lambda data=dataset, day=day: theirs(data, day=day),
            }
            found = {who: [timed(run)] for who, run in runs.items()}
            for _ in range(words.rounds):
                for who, run in runs.items():
                    found[who].append(timed(run))
            for at, clock in enumerate(("wall", "cpu")):
                pairs = zip(found["ours"][1:], found["pyarrow"][1:], strict=True)
                ratios[f"{name}, {clock}"] = statistics.median(a[at] / b[at] for a, b in pairs)
            rates[name] = {
                who: statistics.median(one[0] for one in some[1:]) for who, some in found.items()
            }
    for name, ratio in ratios.items():
        print(f"{name:44} {ratio:5.2f} of read_table's rows a second")
    if words.json:
        says = {"ratios": ratios, "rows_per_second": rates, "load": os.getloadavg()}
        print(json.dumps(says))


if __name__ == "__main__":
    main()
