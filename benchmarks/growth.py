"""How time and memory grow as the work does, and how long stages take to start.

    python -m benchmarks.growth --json

One thing at a time is made 1, 2, 4 and 8 times as large: rows, features, rows of tables; ranks 1, 2
and 4. Each point is a process of its own (``benchmarks/growth_job.py``). The last line is one JSON
object with ``ratios``: exponents of a fit of log cost to log size, bytes of a table row over its
weights and optimiser state, CPU time a row on more ranks over one, seconds a stage needs beyond the
import of torch and torchrec: to be imported, and for a whole run on 4,096 rows.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.logs import FIRST_DAY, Shape, write_logs

FACTORS = (1, 2, 4, 8)
BASE = {"rows": 102_400, "ids": 16, "numbers": 8, "table_rows": 50_000}
_STAGES = (
    "prepare",
    "pretrain",
    "dump",
    "transfer",
    "retrieve",
    "select",
    "analyse",
    "comparable",
    "report",
    "plan",
)


def probe(what: str, folder: Path, *, ranks: int = 1, **shape: int) -> dict[str, float]:
    """Run one point; return what it measured on rank 0."""
    result = folder / "result.json"
    write_logs(folder / "data", Shape(**{**BASE, **shape}))
    words = ["-m", "benchmarks.growth_job", what, str(folder)]
    start = ["-m", "launch.ranks", "--nproc-per-node", str(ranks)]
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *start, *words], check=True, env=environment, stdout=sys.stderr)
    return json.loads(result.read_text())


def exponent(sizes: list[int], costs: list[float]) -> float:
    """Return the slope of log cost over log size."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def grow(what: str, names: list[str], folder: Path) -> list[dict[str, float]]:
    """Return a measurement a factor, with the named parts of the shape made larger."""
    found: list[dict[str, float]] = []
    for factor in FACTORS:
        shape = {name: BASE[name] * factor for name in names}
        with tempfile.TemporaryDirectory(dir=folder) as own:
            found.append(probe(what, Path(own), **shape))
        print(what, names, factor, found[-1], file=sys.stderr)
    return found


def growth(folder: Path) -> dict[str, float]:
    """Return the exponents and memory of one round."""
    ratios: dict[str, float] = {}
    points = {
        "rows": grow("train", ["rows"], folder),
        "features": grow("train", ["ids", "numbers"], folder),
    }
    for name, found in points.items():
        ratios[f"seconds by {name}, exponent"] = exponent(
            list(FACTORS), [one["seconds"] for one in found]
        )
        ratios[f"peak memory by {name}, exponent"] = exponent(
            list(FACTORS), [one["peak_bytes"] for one in found]
        )
    read = grow("read", ["rows"], folder)
    ratios["reader: peak memory of 8 times the rows, over 1"] = (
        read[-1]["peak_bytes"] / read[0]["peak_bytes"]
    )
    tables = grow("tables", ["table_rows"], folder)
    few, many = tables[0], tables[-1]
    ratios["tables: bytes a row over weights and optimiser state"] = (
        many["resident_bytes"] - few["resident_bytes"]
    ) / (many["wanted_bytes"] - few["wanted_bytes"])
    ratios["tables: seconds of a step by rows, exponent"] = exponent(
        list(FACTORS), [one["seconds"] for one in tables]
    )
    with tempfile.TemporaryDirectory(dir=folder) as own:
        alone = probe("train", Path(own))
    for ranks in (2, 4):
        with tempfile.TemporaryDirectory(dir=folder) as own:
            several = probe("train", Path(own), ranks=ranks)
        ratios[f"CPU time a row on {ranks} ranks over 1"] = (
            several["cpu_seconds"] / alone["cpu_seconds"]
        )
    return ratios


def start_up(folder: Path) -> dict[str, float]:
    """Return what stages need before their work, and for a little of it."""
    imports = _seconds("-c", "import torch, torchrec")
    found = {
        f"import of {stage}, seconds beyond torch's": _seconds("-c", f"import launch.{stage}")
        - imports
        for stage in _STAGES
    }
    data, run, reps = (folder / name for name in ("tiny", "run", "reps"))
    if not data.exists():
        write_logs(data, Shape(rows=4096, days=4))
    days = [FIRST_DAY + place for place in range(4)]
    runs = {
        "pretrain": (
            f"data={data} output={run} overwrite=true"
            f" days.first={days[0]} days.base_last={days[0]} days.last={days[1]}"
        ),
        "dump": f"data={data} pretrain={run} output={reps} overwrite=true",
        "transfer": (
            f"input.data={data} input.pretrain={run} input.reps={reps} overwrite=true"
            f" output={folder / 'transfer'} only=[vanilla] seeds=[0] fit.max_epochs=1"
            f" split.train_first={days[1]} split.train_last={days[1]}"
            f" split.valid_last={days[2]} split.test_last={days[3]}"
        ),
    }
    (folder / "empty.yaml").write_text("{}\n")
    for stage, settings in runs.items():
        whole = _seconds("-m", f"launch.{stage}", str(folder / "empty.yaml"), *settings.split())
        found[f"whole run of {stage} on 4,096 rows, seconds beyond torch's"] = whole - imports
    return found


def _seconds(*words: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=sys.stderr)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rounds = [growth(folder) | start_up(folder) for _ in range(words.rounds)]
    ratios = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    for name, ratio in ratios.items():
        print(f"{name:64} {ratio:6.2f}")
    if words.json:
        says: dict[str, Any] = {"ratios": ratios, "rounds": rounds, "load": os.getloadavg()}
        print(json.dumps(says))


if __name__ == "__main__":
    main()
