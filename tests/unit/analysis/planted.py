"""Run folders of ``transfer`` with scores of known quality, and the truth they were drawn from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ARMS = {"vanilla": 0.4, "adapter": 0.8, "same": 0.4}
"""How much of a row's latent interest an arm's score holds."""


@dataclass
class Planted:
    """Where the folders are and what was written, by split."""

    runs: Path
    oracle: Path
    pretrain: Path
    tables: dict[tuple[str, int, str], pa.Table] = field(default_factory=dict)


def plant(
    folder: Path,
    *,
    num_rows: int = 6_000,
    seeds: tuple[int, ...] = (0, 1),
    arms: Mapping[str, float] = ARMS,
) -> Planted:
    """Write every arm and seed, two part files a split, rows in an order of each run's own."""
    planted = Planted(
        runs=folder / "runs", oracle=folder / "world" / "oracle", pretrain=folder / "upstream"
    )
    for number, split in enumerate(("valid", "test")):
        rng = np.random.default_rng(7 + number)
        row_id = rng.permutation(num_rows).astype(np.int64) + 10_000 * (number + 1)
        # The last scenario is so small that it can carry no AUC of its own.
        scenario = rng.choice(4, num_rows, p=[0.5, 0.3, 0.199, 0.001]).astype(np.int64)
        interest = rng.normal(size=num_rows)
        truth = 1 / (1 + np.exp(-(np.array([-2.5, -1.0, -3.0, -2.0])[scenario] + 1.3 * interest)))
        click = (rng.random(num_rows) < truth).astype(np.int8)
        conversion = pa.array((rng.random(num_rows) < 0.2).astype(np.int8), mask=click == 0)
        _write_oracle(planted.oracle / f"day=2025010{number + 1}", row_id=row_id, truth=truth)
        for arm, quality in arms.items():
            for seed in seeds:
                noise = np.random.default_rng([number, seed, sorted(arms).index(arm)]).normal(
                    size=num_rows
                )
                score = -2.0 + 1.3 * quality * interest + 0.5 * noise
                table = pa.table(
                    {
                        "row_id": row_id,
                        "user": row_id % 397,
                        "scenario": scenario,
                        "day": np.full(num_rows, 20250101 + number),
                        "label_click": click,
                        "logit_click": score.astype(np.float32),
                        "label_conversion": conversion,
                        "logit_conversion": (0.3 * noise - 1.4).astype(np.float32),
                    }
                )
                planted.tables[arm, seed, split] = table
                _write_split(
                    planted.runs / arm / f"seed-{seed}", table=table, split=split, seed=seed
                )
    for arm in arms:
        for seed in seeds:
            _write_run(planted.runs / arm / f"seed-{seed}", arm=arm, seed=seed)
    _write_pretrain(planted.pretrain)
    return planted


def _write_split(run: Path, *, table: pa.Table, split: str, seed: int) -> None:
    folder = run / "predictions" / f"split={split}"
    folder.mkdir(parents=True)
    table = table.take(np.random.default_rng(seed).permutation(table.num_rows))
    half = table.num_rows // 2
    pq.write_table(table.slice(0, half), folder / "part-0.parquet")
    pq.write_table(table.slice(half), folder / "part-1.parquet")


def _write_oracle(folder: Path, *, row_id: np.ndarray, truth: np.ndarray) -> None:
    """The simulator knows more rows than any arm scored."""
    folder.mkdir(parents=True)
    more = np.concatenate([row_id, row_id + 1_000_000])
    table = pa.table({"row_id": more, "probability_click": np.tile(truth, 2).astype(np.float32)})
    pq.write_table(table, folder / "part-0.parquet")


def _write_run(run: Path, *, arm: str, seed: int) -> None:
    report = {
        "schema_version": 1,
        "stage": "transfer",
        "arm": arm,
        "seed": seed,
        "dataset": "planted-world",
        "upstream": None if arm == "vanilla" else "lfm-0001",
        "metrics": [],
        "seconds": 12.5,
        "num_parameters": 98765,
        "versions": {"torch": "2.13.0"},
    }
    (run / "report.json").write_text(json.dumps(report))
    (run / "config.yaml").write_text(f"arm: {arm}\nseed: {seed}\nnote: <b>not markup</b>\n")
    lines = [
        {
            "step": step,
            "split": "train",
            "name": "loss",
            "value": 0.7 - 0.001 * step,
            "unit": "nats",
        }
        for step in range(0, 200, 10)
    ]
    lines += [
        {"step": step, "split": "valid", "name": "auc/click", "value": None, "unit": ""}
        for step in (100, 200)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_pretrain(folder: Path) -> None:
    folder.mkdir(parents=True)
    lines = [
        {"step": step, "split": "train", "name": "loss", "value": 1 / (1 + step), "unit": "nats"}
        for step in range(9)
    ]
    lines += [
        {
            "step": 10 * day,
            "split": f"day={20250100 + day}",
            "name": "auc/click",
            "value": 0.6 + day / 100,
            "unit": "",
        }
        for day in (3, 1, 2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "report.json").write_text(
        json.dumps({"schema_version": 1, "stage": "pretrain", "upstream": "lfm-0001"})
    )
