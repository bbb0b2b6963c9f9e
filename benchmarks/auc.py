"""AUC and GAUC of the package against exact ones at ads base rates, on 1, 2 and 4 ranks.

    python -m benchmarks.auc --json

The last line is one JSON object. Every case holds the differences, the CPU time of a row's update
(of one thread: a busy machine distorts it less), the wall time of the reduction and the peak
memory that a rank needed beyond what it had before its first row.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from lfm4ads.core.ranks import Ranks
from lfm4ads.metrics.binary import BinaryMetrics
from lfm4ads.metrics.score_histogram import ScoreHistogram
from tests.gloo import run_ranks

Array = npt.NDArray[Any]

RATES = (0.05, 0.005, 0.002, 0.0002)
WORLDS = (1, 2, 4)
SHAPES = ("wide", "narrow")
BATCH_ROWS = 4096
ROWS_PER_USER = 20
_TYPES = {"logits": np.float32, "labels": np.bool_, "users": np.int64}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one rank found and needed."""

    auc: float
    gauc: float
    auc_error_bound: float
    gauc_users_ratio: float
    histogram_cpu_ns_per_row: float
    """Update of the AUC's histogram alone."""
    update_cpu_ns_per_row: float
    """Update of all figures."""
    reduce_seconds: float
    peak_extra_bytes: int


def scores(num_rows: int, *, rate: float, shape: str) -> dict[str, Array]:
    """Draw logits, labels and users (N,) each.

    ``wide`` logits are Normal(-6, 1) and 1 higher for positives. ``narrow`` squeezes them as a
    model that has barely learned does: float32 probabilities between about 0.00195 and 0.00205,
    turned into logits.
    """
    generator = np.random.default_rng(17)
    labels = generator.random(num_rows) < rate
    logits = generator.normal(-6.0, 1.0, num_rows) + labels
    if shape == "narrow":
        probability = (0.002 + 1e-5 * (logits + 6.0)).astype(np.float32)
        logits = np.log(probability) - np.log1p(-probability)
    users = generator.integers(0, max(1, num_rows // ROWS_PER_USER), num_rows)
    return {"logits": logits.astype(np.float32), "labels": labels, "users": users}


def exact_gauc(logits: Array, *, labels: Array, users: Array) -> float:
    """Return the GAUC from midranks within users (Mann-Whitney), not as the package does."""
    order = np.lexsort((logits, users))
    logits, labels, users = logits[order], labels[order], users[order]
    first = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    sizes = np.diff(np.r_[first, len(users)])
    tie = np.flatnonzero(np.r_[True, (users[1:] != users[:-1]) | (logits[1:] != logits[:-1])])
    tie_sizes = np.diff(np.r_[tie, len(users)])
    ranks = np.repeat(tie + (tie_sizes + 1) / 2, tie_sizes) - np.repeat(first, sizes)
    positives = np.add.reduceat(labels.astype(np.int64), first)
    rank_sums = np.add.reduceat(np.where(labels, ranks, 0.0), first)
    both = (positives > 0) & (positives < sizes)
    positives, sizes, rank_sums = positives[both], sizes[both], rank_sums[both]
    auc = (rank_sums - positives * (positives + 1) / 2) / (positives * (sizes - positives))
    return float(sizes @ auc / sizes.sum())


def measure(ranks: Ranks, folder: str, num_rows: int) -> dict[str, float]:
    """Read this rank's batches from ``folder`` and return a ``Measured``."""
    before = _memory_bytes("VmRSS")
    metrics, update_seconds = BinaryMetrics(), 0.0
    for batch in _batches(ranks, folder=folder, num_rows=num_rows):
        start = time.thread_time()
        metrics.update(batch["logits"], labels=batch["labels"], users=batch["users"])
        update_seconds += time.thread_time() - start
    ranks.barrier()
    start = time.perf_counter()
    figures = metrics.reduce(ranks)
    reduce_seconds = time.perf_counter() - start
    peak = _memory_bytes("VmHWM") - before
    histogram, histogram_seconds = ScoreHistogram(), 0.0
    for batch in _batches(ranks, folder=folder, num_rows=num_rows):
        start = time.thread_time()
        histogram.update(batch["logits"], labels=batch["labels"])
        histogram_seconds += time.thread_time() - start
    start = time.thread_time()
    histogram.bins()
    histogram_seconds += time.thread_time() - start
    assert figures.auc is not None
    assert figures.gauc is not None
    assert figures.auc_error_bound is not None
    mine = num_rows / ranks.world
    return asdict(
        Measured(
            auc=figures.auc,
            gauc=figures.gauc,
            auc_error_bound=figures.auc_error_bound,
            gauc_users_ratio=figures.gauc_users_ratio,
            histogram_cpu_ns_per_row=histogram_seconds / mine * 1e9,
            update_cpu_ns_per_row=update_seconds / mine * 1e9,
            reduce_seconds=reduce_seconds,
            peak_extra_bytes=peak,
        )
    )


def _batches(ranks: Ranks, *, folder: str, num_rows: int) -> Iterator[dict[str, Array]]:
    """Yield every world-th batch; read, not mapped, so that the file is no part of the memory."""
    for start in range(ranks.rank * BATCH_ROWS, num_rows, ranks.world * BATCH_ROWS):
        yield {
            name: np.fromfile(
                Path(folder) / name,
                dtype=kind,
                count=BATCH_ROWS,
                offset=start * np.dtype(kind).itemsize,
            )
            for name, kind in _TYPES.items()
        }


def _memory_bytes(field: str) -> int:
    """Return a field of Linux's account of this process; VmHWM is the most VmRSS has ever been."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field} in /proc/self/status")


def cases(num_rows: int) -> Iterator[dict[str, Any]]:
    """Yield one JSON row for each shape, rate and number of ranks."""
    for shape in SHAPES:
        for rate in RATES:
            with tempfile.TemporaryDirectory() as folder:
                columns = scores(num_rows, rate=rate, shape=shape)
                auc = float(roc_auc_score(columns["labels"], columns["logits"]))
                gauc = exact_gauc(**columns)
                for name, column in columns.items():
                    column.tofile(Path(folder) / name)
                del columns
                for world in WORLDS:
                    yield {
                        "shape": shape,
                        "positive_ratio": rate,
                        "ranks": world,
                        "exact_auc": auc,
                        "exact_gauc": gauc,
                        **_case(run_ranks(measure, world, folder, num_rows), auc=auc, gauc=gauc),
                    }


def _case(found: list[dict[str, float]], *, auc: float, gauc: float) -> dict[str, float]:
    """Summarise what ranks measured: the worst rank's difference, time and memory."""
    return {
        "auc": found[0]["auc"],
        "auc_difference": max(abs(each["auc"] - auc) for each in found),
        "auc_error_bound": found[0]["auc_error_bound"],
        "gauc_difference": max(abs(each["gauc"] - gauc) for each in found),
        "gauc_users_ratio": found[0]["gauc_users_ratio"],
        **{
            name: max(each[name] for each in found)
            for name in (
                "histogram_cpu_ns_per_row",
                "update_cpu_ns_per_row",
                "reduce_seconds",
                "peak_extra_bytes",
            )
        },
    }


def main() -> None:
    """Run all cases and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--json", action="store_true", help="print only the JSON object")
    arguments = parser.parse_args()
    found = []
    for case in cases(arguments.rows):
        found.append(case)
        if not arguments.json:
            print(
                f"{case['shape']:6} {case['positive_ratio']:7.2%} {case['ranks']} ranks"
                f"  AUC off by {case['auc_difference']:.1e} (bound {case['auc_error_bound']:.1e})"
                f"  GAUC off by {case['gauc_difference']:.1e}"
                f"  {case['histogram_cpu_ns_per_row']:.0f} CPU ns a row for AUC,"
                f" {case['update_cpu_ns_per_row']:.0f} for all"
                f"  reduce {case['reduce_seconds']:.1f} s"
                f"  {case['peak_extra_bytes'] / 2**20:.0f} MiB a rank",
                flush=True,
            )
    worst = {
        name: max(case[name] for case in found)
        for name in (
            "auc_difference",
            "gauc_difference",
            "peak_extra_bytes",
            "histogram_cpu_ns_per_row",
        )
    }
    print(json.dumps({"benchmark": "auc", "rows": arguments.rows, "worst": worst, "cases": found}))


if __name__ == "__main__":
    main()
