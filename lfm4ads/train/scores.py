"""Figures per task and scenario, and the scores behind them as files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import whole_file
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema
from lfm4ads.metrics.binary import BinaryFigures, BinaryMetrics, figures_json
from lfm4ads.train.loop import Fault, agreed

Figures = dict[tuple[str, str], BinaryFigures]
"""By (task, scenario id as a string or ``all``)."""


class Scores:
    """Accumulates logits of some tasks, by scenario."""

    def __init__(self, schema: Schema, tasks: list[str]) -> None:
        self._tasks = tasks
        self._columns = [list(schema.tasks).index(task) for task in tasks]
        self._scenarios = len(schema.scenarios)
        self._metrics: dict[tuple[int, int], BinaryMetrics] = {}

    def update(self, logits: np.ndarray, batch: Batch) -> None:
        """Add logits (B, T), one column a task."""
        scenario, user = batch.scenario.numpy(), batch.user.numpy()
        for position, column in enumerate(self._columns):
            labelled = batch.masks[:, column].numpy() > 0
            labels = batch.labels[:, column].numpy()
            for index in np.unique(scenario[labelled]):
                rows = labelled & (scenario == index)
                metrics = self._metrics.setdefault((position, int(index)), BinaryMetrics())
                metrics.update(logits[rows, position], labels=labels[rows], users=user[rows])

    def reduce(self, ranks: Ranks) -> Figures:
        """Return the figures over all ranks, for every task and every scenario that has rows."""
        counts = np.zeros((len(self._tasks), self._scenarios), dtype=np.int64)
        for (position, index), metrics in self._metrics.items():
            counts[position, index] = metrics.counts[0]
        counts = ranks.sum(counts)
        figures: Figures = {}
        for position, task in enumerate(self._tasks):
            whole, scenarios = BinaryMetrics(), np.flatnonzero(counts[position])
            for index in scenarios:
                part = self._metrics.get((position, int(index)), BinaryMetrics())
                figures[task, str(index)] = part.reduce(ranks)
                whole.merge(part)
            if len(scenarios) == 1:  # is all there is: no second sort and exchange of its rows
                figures[task, "all"] = figures[task, str(scenarios[0])]
            else:
                figures[task, "all"] = whole.reduce(ranks)
        return figures


def figure_rows(figures: Figures, *, split: str) -> list[dict[str, Any]]:
    """Return the figures as rows of ``report.json``."""
    return [
        {"split": split, "task": task, "scenario": scenario, **figures_json(one)}
        for (task, scenario), one in figures.items()
    ]


def mean_auc(figures: Figures, *, monitor: str, scenario: str = "all") -> float:
    """Return the AUC of task ``monitor``, or the mean over tasks when empty; .5 where undefined."""
    values = [
        one.auc
        for (task, where), one in figures.items()
        if where == scenario and monitor in ("", task) and one.auc is not None
    ]
    return float(np.mean(values)) if values else 0.5


def weighted_scenario_auc(figures: Figures, *, task: str) -> float:
    """Return the mean of the scenarios' AUCs weighted by positives; .5 where none is defined.

    Pooled AUC rewards knowing which scenario clicks more, so it would choose the wrong epoch.
    """
    parts = [
        (one.auc, one.positives)
        for (name, where), one in figures.items()
        if name == task and where != "all" and one.auc is not None
    ]
    total = sum(positives for _, positives in parts)
    return sum(auc * positives for auc, positives in parts) / total if total else 0.5


@contextmanager
def _written(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    with whole_file(path) as temporary:
        writer = pq.ParquetWriter(temporary, schema, compression="zstd")
        try:
            yield writer
        except BaseException:
            with suppress(OSError):  # a full disk refuses the footer too; what came first counts
                writer.close()
            raise
        writer.close()


class ScoreFile:
    """Streams rows and their logits to one Parquet file that appears when it is complete."""

    def __init__(
        self,
        path: Path,
        schema: Schema,
        tasks: list[str],
        *,
        stack: ExitStack,
        extras: Sequence[str] = (),
    ) -> None:
        """``extras`` name the columns of the scores that come after the tasks' logits."""
        self._tasks = tasks
        self._extras = list(extras)
        self._columns = [list(schema.tasks).index(task) for task in tasks]
        fields = [(name, pa.int64()) for name in ("row_id", "user", "scenario", "day")]
        fields += [(f"label_{task}", pa.int8()) for task in tasks]
        fields += [(f"logit_{task}", pa.float32()) for task in tasks]
        fields += [(name, pa.float32()) for name in extras]
        self._schema = pa.schema(fields)
        self._path = path
        self._writer = stack.enter_context(_written(path, self._schema))

    def update(self, logits: np.ndarray, batch: Batch) -> None:
        """Add the valid rows of a batch with logits, and extras, side by side (B, .).

        Raises:
            UserError: the disk is full, or gone.
        """
        valid = batch.valid.numpy()
        num_rows = int(valid.sum())
        columns: list[Any] = [batch.row_id.numpy()[valid], batch.user.numpy()[valid]]
        columns += [batch.scenario.numpy()[valid], np.full(num_rows, batch.day)]
        for column in self._columns:
            absent = batch.masks[:, column].numpy()[valid] == 0
            columns.append(
                pa.array(batch.labels[:, column].numpy()[valid].astype(np.int8), mask=absent)
            )
        scores = len(self._tasks) + len(self._extras)
        columns += [logits[valid, position] for position in range(scores)]
        rows = pa.RecordBatch.from_arrays(
            [pa.array(column) for column in columns], schema=self._schema
        )
        try:
            self._writer.write_batch(rows)
        except OSError as error:
            raise UserError(
                f"{self._path} cannot be written ({error}); free disk space, then run the same"
                " command"
            ) from error


@torch.no_grad()
def score_pass(
    batches: Iterable[Batch],
    *,
    forward: Callable[[Batch], Tensor],
    sinks: list[Callable[[np.ndarray, Batch], None]],
    ranks: Ranks,
) -> int:
    """Score batches, hand logits (B, T) to every sink, return this rank's number of rows.

    Raises:
        UserError: a batch could not be read, a score is not finite or could not be written; on
            every rank.
    """
    rows, fault = 0, Fault()
    for batch in agreed(batches, ranks=ranks, fault=fault):
        if batch is None:
            break
        logits = forward(batch.to(ranks.device)).float().cpu().numpy()
        if not np.isfinite(logits).all():
            fault.error = UserError(
                f"a score of day {batch.day} is not finite; train again with a lower learning rate"
            )
            continue
        rows += int(batch.valid.sum())
        try:
            for sink in sinks:
                sink(logits, batch)
        except UserError as error:
            fault.error = error
    ranks.agree(fault.error)
    return rows
