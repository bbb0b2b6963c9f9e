"""Time and memory of spectra on a large table: ``python -m benchmarks.abundance --json``.

A table of ten million rows x 64, sharded as training does it, on this process; what ``analyse``
and ``spectra_every_days`` compute of every table: both Gram matrices in one pass, and the spectra.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from lfm4ads.analysis.collapse import spectrum
from lfm4ads.core.ranks import open_ranks
from lfm4ads.data.schema import Feature, Schema, TableSpec, Task
from lfm4ads.model.config import LfmConfig
from lfm4ads.model.lfm import Lfm
from lfm4ads.nn.tower import TowerConfig
from lfm4ads.shard.sharded import ShardConfig, shard_model
from lfm4ads.train.spectra import measure_tables

_SMALL = TableSpec(rows=16, dim=8)


def schema_of(*, rows: int, dim: int) -> Schema:
    """Return a schema of one large table of users and a small one of items."""
    return Schema(
        version=1,
        name="large",
        user="user",
        item="item",
        time="time",
        domain="domain",
        scenario="scenario",
        row_id="row_id",
        domains=("ads",),
        scenarios=("feed",),
        tables={"user": replace(_SMALL, rows=rows, dim=dim), "item": _SMALL},
        features={
            "user_id": Feature(kind="id", side="user", column="user", table="user"),
            "item_id": Feature(kind="id", side="item", column="item", table="item"),
        },
        tasks={"click": Task(label="click", domains=("ads",))},
    )


def _kib(name: str) -> int:
    """Return a figure of this process from Linux, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> int:
    """Print seconds, memory and the table's information abundance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args()
    torch.set_num_threads(1)
    with open_ranks() as ranks:
        config = LfmConfig(tower=TowerConfig(hidden=(8,), rep_dim=8))
        model = Lfm(schema_of(rows=told.rows, dim=told.dim), config)
        sharded = shard_model(model, config=ShardConfig(), ranks=ranks, seed=0)
        # Filling the table took more; from here on the kernel counts the peak anew.
        Path("/proc/self/clear_refs").write_text("5")
        resident, cpu = _kib("VmRSS"), time.process_time()
        started = time.perf_counter()
        found = next(one for one in measure_tables(sharded) if one.table == "user")
        abundance = {kind: spectrum(found.grams[kind]).abundance for kind in ("raw", "normalised")}
        seconds = time.perf_counter() - started
        grown, cpu = _kib("VmHWM") - resident, time.process_time() - cpu
    figures = {
        "rows": told.rows,
        "dim": told.dim,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "table_gib": told.rows * told.dim * 4 / 2**30,
        "peak_growth_gib": grown / 2**20,
        "abundance": abundance,
    }
    sys.stdout.write(f"{json.dumps(figures)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
