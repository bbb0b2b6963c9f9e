"""Rows in files that no memory holds: seconds and memory of ``select_rows`` on some ranks.

python -m benchmarks.selection --section scale --json [--rows 1000000] [--columns 2000] [--rounded]

Parquet files are written to a folder that is removed at the end, unless ``--folder`` names one.
Values take 4 bytes there; ``--rounded`` ones half of one, so 10 million rows take 10 GB.

Dimension key: N rows of a file, P columns.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit

from lfm4ads.core.ranks import open_ranks
from lfm4ads.selection.distributed import RowsOptions, select_rows
from lfm4ads.selection.rows import ParquetRows, RowColumns
from lfm4ads.selection.select import SelectOptions

TRUE = 20
"""Columns that matter, evenly spread, with signs in turn."""
_FILE_ROWS = 50_000
_GROUP_ROWS = 8_192
_LABELS = {"linear": "value", "logistic": "click", "cox": "delay"}


def main(words: list[str]) -> list[dict[str, Any]]:
    """Write the files, run each model on each number of ranks, return one object a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=2_000)
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--models", nargs="*", default=["linear"], choices=list(_LABELS))
    parser.add_argument("--screening", type=int, default=200, help="of logistic and Cox models")
    parser.add_argument("--rounded", action="store_true", help="values to halves, within 3.5")
    parser.add_argument("--folder", type=Path, help="keep the files here, and use those there are")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        _write_rows(folder, rows=options.rows, columns=options.columns, rounded=options.rounded)
        found = [
            _run(folder, model=model, world=world, screening=options.screening)
            for model in options.models
            for world in options.ranks
        ]
    wanted = {tuple(line["columns"]) for line in found if line["model"] == options.models[0]}
    for line in found:
        line |= {"setup": f"{line['model']}-{options.rows}-{options.columns}"}
        line["same_columns"] = len(wanted) == 1
    return found


def _write_rows(folder: Path, *, rows: int, columns: int, rounded: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, at in enumerate(range(0, rows, _FILE_ROWS)):
        path = folder / f"part-{part:05d}.parquet"
        if path.exists():
            continue
        table = _table(min(_FILE_ROWS, rows - at), columns, seed=part, rounded=rounded)
        # Random bits compress by nothing, and a dictionary of them is larger than they are.
        pq.write_table(
            table, path, row_group_size=_GROUP_ROWS, compression="none", use_dictionary=rounded
        )


def _table(rows: int, columns: int, *, seed: int, rounded: bool) -> pa.Table:
    generator = np.random.default_rng(seed)
    matrix_PN = generator.standard_normal((columns, rows), dtype=np.float32)
    matrix_PN[1:] += 0.5 * matrix_PN[:-1]
    if rounded:
        matrix_PN = np.clip(np.round(2 * matrix_PN) / 2, -3.5, 3.5)
    true = np.linspace(0, columns - 1, TRUE).astype(int)
    signal_N = (matrix_PN[true] * (0.1 * np.resize([1, -1], TRUE))[:, None]).sum(0)
    delay_N = generator.exponential(size=rows) * np.exp(-signal_N)
    made = {f"x{j}": matrix_PN[j] for j in range(columns)}
    made["value"] = signal_N + generator.standard_normal(rows)
    made["click"] = (generator.random(rows) < expit(signal_N - 3.0)) * 1.0
    made["delay"] = np.minimum(delay_N, 0.5)
    made["observed"] = (delay_N < 0.5) * 1.0
    return pa.table(made)


def _run(folder: Path, *, model: str, world: int, screening: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "launch.ranks", "--nproc-per-node", str(world)]
    command += ["-m", "benchmarks.selection_scale", str(folder), model, str(screening)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    line = json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps(line), file=sys.stderr, flush=True)
    return line


class _Counted:
    """Rows that count how often they are read."""

    def __init__(self, source: ParquetRows) -> None:
        self._source = source
        self.num_columns = source.num_columns
        self.values = 0

    def batches(self, columns_M: Any) -> Iterator[Any]:
        for batch in self._source.batches(columns_M):
            self.values += batch.matrix_NM.size
            yield batch


def _as_rank(folder: Path, *, model: Any, screening: int) -> None:
    """Select on this rank; rank 0 prints what it took."""
    files = sorted(folder.glob("*.parquet"))
    names = [name for name in pq.read_schema(files[0]).names if name.startswith("x")]
    event = "observed" if model == "cox" else None
    columns = RowColumns(candidates=names, label=_LABELS[model], event=event)
    with open_ranks() as ranks:
        source = _Counted(
            ParquetRows(
                files, columns=columns, rank=ranks.rank, world=ranks.world, batch_rows=_GROUP_ROWS
            )
        )
        before = _resident_bytes()
        started = time.monotonic()
        select = SelectOptions(
            size=TRUE, search="golden", screening=None if model == "linear" else screening
        )
        found = select_rows(
            source, RowsOptions(model=model, select=select), sum_over_ranks=ranks.sum
        )
        seconds = time.monotonic() - started
        peak = [float(text) for text in ranks.texts(str(_resident_bytes() - before))]
        values = int(ranks.sum(np.array([source.values]))[0])
    if ranks.is_first:
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        chosen = found.coefficients.columns_K.tolist()
        truth = np.linspace(0, len(names) - 1, TRUE).astype(int).tolist()
        line = {"model": model, "rows": rows, "num_columns": len(names), "ranks": ranks.world}
        line |= {"seconds": seconds, "peak_gigabytes_a_rank": max(peak) / 1e9}
        line |= {"passes": values / (rows * len(names)), "columns": chosen}
        line |= {"true_positives": len(set(chosen) & set(truth))}
        print(json.dumps(line))


def _resident_bytes() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    _as_rank(Path(sys.argv[1]), model=sys.argv[2], screening=int(sys.argv[3]))
