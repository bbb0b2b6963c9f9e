"""What every program of ``benchmarks.peers`` is told, and how it measures and reports itself.

The standard library and numpy alone: it runs in the peers' environments too.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

NUM_IDS, NUM_NUMBERS = 26, 13
ROWS, DIM = 100_000, 16
"""Of each of the 26 tables."""
IDS = [f"c{place}" for place in range(NUM_IDS)]
NUMBERS = [f"n{place}" for place in range(NUM_NUMBERS)]
TASKS = {"dcnv2": ["click"], "mmoe": ["click", "buy"]}
CROSS_LAYERS, MLP = 3, (256, 128, 64)
NUM_EXPERTS, EXPERT, TOWER = 4, (256, 128), (64,)
DAYS = {"train": 20260101, "valid": 20260102, "test": 20260103}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of one program."""

    data: Path
    """Dataset folder, day=YYYYMMDD/*.parquet; ``npz`` within it for who reads that."""
    model: Literal["dcnv2", "mmoe"]
    scored: Literal["valid", "test"]
    output: Path
    """.npy file (N, T) of scores, in the order of the rows."""
    batch_size: int
    threads: int
    seed: int
    dense_lr: float
    """Of Adam: of a peer's one optimiser for everything, else of all but the tables."""
    table_lr: float
    """Of row-wise AdaGrad on the tables; nothing to a peer."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products in training; all but this project's are float32."""

    def files(self, split: str) -> list[str]:
        """Return the Parquet files of a split, in order."""
        return sorted(str(path) for path in (self.data / f"day={DAYS[split]}").glob("*.parquet"))

    @property
    def tasks(self) -> list[str]:
        """The label columns."""
        return TASKS[self.model]


def read_job() -> Job:
    """Return the job that the only argument, a JSON object, names."""
    words: dict[str, Any] = json.loads(sys.argv[1])
    return Job(**{**words, "data": Path(words["data"]), "output": Path(words["output"])})


@dataclass
class Epoch:
    """What the training epoch took."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of all threads and child processes, living or not."""
    peak_bytes: int = 0
    """Largest resident size of the process until the end of the epoch."""


@contextmanager
def measured() -> Iterator[Epoch]:
    """Measure the block, which holds the whole epoch with its reading and nothing else."""
    epoch = Epoch()
    cpu, started = _cpu_seconds(), time.perf_counter()
    yield epoch
    epoch.seconds = time.perf_counter() - started
    epoch.cpu_seconds = _cpu_seconds() - cpu
    status = Path("/proc/self/status").read_text(encoding="ascii")
    # Not ru_maxrss, which starts at the size of the process that forked this one.
    epoch.peak_bytes = 1024 * int(status.split("VmHWM:")[1].split()[0])


def report(job: Job, epoch: Epoch, scores_NT: npt.NDArray[Any]) -> None:
    """Write the scores, and print the figures as one line."""
    np.save(job.output, np.asarray(scores_NT, dtype=np.float64).reshape(-1, len(job.tasks)))
    print(json.dumps(vars(epoch)), flush=True)


def _cpu_seconds() -> float:
    own = os.times()
    gone = own.children_user + own.children_system
    return own.user + own.system + gone + sum(map(_of_process, _descendants(os.getpid())))


def _descendants(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text(encoding="ascii").split()):
            yield child
            yield from _descendants(child)


def _of_process(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat")
    fields = stat.read_text(encoding="ascii").rpartition(")")[2].split() if stat.exists() else []
    # utime, stime, and those of its children that have ended.
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
