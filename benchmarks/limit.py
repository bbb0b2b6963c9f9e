"""What the stages reach of a bare loop of the same model on one batch held in memory.

    python -m benchmarks.limit --json

Each number of ranks is a job of its own, in which a stage and the bare loop take turns; the last
line is one JSON object with ``ratios``: rows a second of the stage over the bare loop's, medians of
the rounds. ``benchmarks/limit_job.py`` says what is compared with what.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.logs import Shape, write_logs


def measure(folder: Path, *, world: int, rounds: int, only: list[str]) -> dict[str, list[float]]:
    """Return a ratio a round of everything that is compared, on so many ranks."""
    result = folder / f"ranks-{world}.json"
    words = ["-m", "launch.ranks", "--nproc-per-node", str(world), "-m", "benchmarks.limit_job"]
    settings = ["--rounds", str(rounds), *(f"--only={name}" for name in only)]
    subprocess.run(
        [sys.executable, *words, str(folder), str(result), *settings],
        check=True,
        stdout=sys.stderr,
    )
    return json.loads(result.read_text())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--ranks", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=204_800, help="of a day")
    parser.add_argument("--only", action="append", default=[])
    words = parser.parse_args()
    ratios: dict[str, float] = {}
    spread: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_logs(folder / "data", Shape(rows=words.rows, days=3))
        for world in words.ranks or [1, 2]:
            found = measure(folder, world=world, rounds=words.rounds, only=words.only)
            for what, values in found.items():
                ratios[f"{what}, ranks {world}"] = statistics.median(values)
                spread[f"{what}, ranks {world}"] = values
    for what, ratio in ratios.items():
        low, high = min(spread[what]), max(spread[what])
        print(f"{what:44} {ratio:5.2f} of the bare loop ({low:.2f} to {high:.2f})")
    if words.json:
        says: dict[str, Any] = {"ratios": ratios, "rounds": spread, "load": os.getloadavg()}
        print(json.dumps(says))


if __name__ == "__main__":
    main()
