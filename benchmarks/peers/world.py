"""A planted truth over ids and numbers, so that the AUC has a ceiling that is known.

Dimension key: N rows, F categorical features, D width of a taste.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.peers.meter import DAYS, DIM, IDS, NUM_IDS, NUM_NUMBERS, NUMBERS, ROWS
from lfm4ads.data.dataset import DatasetWriter
from lfm4ads.data.schema import Feature, Schema, TableSpec, Task

Floats = npt.NDArray[np.float64]
DAY_MS = 86_400_000
_ZIPF = 1.2
_TASTE = 4
_PAIRS = 8
_RATES = {"click": -1.3, "buy": -2.6}
"""Intercepts: about a quarter and a twelfth of the rows are positive."""


class World:
    """Logits of two tasks from effects of single ids, products of ids, and numbers."""

    def __init__(self, seed: int) -> None:
        self._random = random = np.random.default_rng(seed)
        self._order = [random.permutation(ROWS) for _ in IDS]
        shared, own = (random.normal(size=(2, NUM_IDS, ROWS)) for _ in range(2))
        self._effects = 0.22 * (0.8 * shared[:1] + 0.6 * own)
        self._tastes = random.normal(size=(2 * _PAIRS, ROWS, _TASTE)) / _TASTE**0.5
        self._slopes = 0.12 * random.normal(size=(2, NUM_NUMBERS))
        self._crossed = 0.1 * random.normal(size=(2, NUM_NUMBERS))

    def draw(self, num_rows: int) -> tuple[dict[str, npt.NDArray[Any]], Floats]:
        """Return columns by name, and the true probabilities (N, 2) of the tasks."""
        random = self._random
        # Density k^-1.2 over ranks k from 1 to ROWS, by its inverse distribution function.
        share_NF = random.random((num_rows, NUM_IDS)) * (1 - ROWS ** (1 - _ZIPF))
        ranks_NF = ((1 - share_NF) ** (1 / (1 - _ZIPF))).astype(np.int64) - 1
        ids_FN = np.stack(
            [order[rank] for order, rank in zip(self._order, ranks_NF.T, strict=True)]
        )
        numbers = random.normal(size=(num_rows, NUM_NUMBERS)).astype(np.float32)
        probabilities = 1 / (1 + np.exp(-self._logits(ids_FN, numbers.astype(np.float64))))
        columns: dict[str, npt.NDArray[Any]] = dict(zip(IDS, ids_FN, strict=True))
        columns |= dict(zip(NUMBERS, np.ascontiguousarray(numbers.T), strict=True))
        labels = (random.random(probabilities.shape) < probabilities).astype(np.int8)
        columns |= dict(zip(_RATES, labels.T, strict=True))
        return columns, probabilities

    def _logits(self, ids_FN: npt.NDArray[np.int64], numbers_NM: Floats) -> Floats:
        products = sum(
            np.einsum("nd,nd->n", self._tastes[2 * pair][ids_FN[2 * pair]], other)
            for pair in range(_PAIRS)
            for other in [self._tastes[2 * pair + 1][ids_FN[2 * pair + 1]]]
        )
        bent = np.tanh(numbers_NM * np.roll(numbers_NM, 1, axis=1))
        return np.stack(
            [
                rate
                + sum(self._effects[task][place][ids] for place, ids in enumerate(ids_FN))
                + 0.15 * products
                + numbers_NM @ self._slopes[task]
                + bent @ self._crossed[task]
                for task, rate in enumerate(_RATES.values())
            ],
            axis=1,
        )


def write_world(folder: Path, *, rows: dict[str, int], seed: int) -> dict[str, Floats]:
    """Write ``folder/data`` and its npz copy; return labels and probabilities of what is scored.

    They are (N, 2) under ``<split>`` and ``<split>_true``.
    """
    world, found = World(seed), dict[str, Floats]()
    (folder / "npz").mkdir(parents=True, exist_ok=True)
    with DatasetWriter(folder / "data", overwrite=True) as writer:
        for split, day in DAYS.items():
            columns, probabilities = world.draw(rows[split])
            np.savez(folder / "npz" / f"{split}.npz", allow_pickle=False, **columns)
            writer.write_day(day, _as_table(columns, day=day))
            found[split] = np.stack([columns[task] for task in _RATES], axis=1).astype(np.float64)
            found[f"{split}_true"] = probabilities
        writer.finish(_schema(), config=Task(label="click"))
    return found


def _as_table(columns: dict[str, npt.NDArray[Any]], *, day: int) -> pa.Table:
    rows = len(columns["click"])
    start = (np.datetime64(f"{day // 10000}-01-{day % 100:02d}") - np.datetime64(0, "D")).astype(
        int
    )
    extra = {
        "row": np.arange(rows),
        "time": start * DAY_MS + np.arange(rows) * DAY_MS // (rows + 1),
        "domain": np.zeros(rows, dtype=np.int8),
        "scenario": np.zeros(rows, dtype=np.int8),
    }
    return pa.table({**columns, **extra})


def _schema() -> Schema:
    features = {
        name: Feature(kind="id", side="user" if place % 2 else "item", table=name)
        for place, name in enumerate(IDS)
    }
    numbers = {
        name: Feature(kind="number", side="user" if place % 2 else "item")
        for place, name in enumerate(NUMBERS)
    }
    return Schema(
        version=1,
        name="peers",
        user="c1",
        item="c0",
        time="time",
        domain="domain",
        scenario="scenario",
        row_id="row",
        domains=("ads",),
        scenarios=("all",),
        tables={name: TableSpec(rows=ROWS, dim=DIM, ids="rows") for name in IDS},
        features=features | numbers,
        tasks={task: Task(label=task) for task in _RATES},
    )
