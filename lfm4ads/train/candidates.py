"""Rows of a downstream dataset as a matrix of candidate columns, for ``select``.

Dimension key: N rows, P candidate columns.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.attach import Reps, RepsReader
from lfm4ads.data.batch import Batch
from lfm4ads.data.index import Dataset, select_rows
from lfm4ads.data.reader import Reader, ReaderConfig, scoring
from lfm4ads.data.schema import Schema, Task

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Choose = Literal["blocks", "dims", "features"]
Model = Literal["linear", "logistic", "cox"]

_DURATION = "duration of the event"
_HOUR_MS = 3_600_000.0
_BLOCK_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which rows are read, with which candidates."""

    domain: str
    task: str
    among: str
    """Only rows where this binary task's label is 1; empty: all."""
    choose: Choose
    first_day: int
    last_day: int
    max_rows: int
    """Rows of all ranks, an equal share of every day."""
    buckets: int
    """Columns an id feature is hashed into."""
    reader: ReaderConfig


@dataclass(frozen=True)
class Candidates:
    """This rank's rows."""

    matrix_NP: Floats
    units_P: list[str]
    """Representation or feature of every column."""
    names_P: list[str]
    label_N: Doubles
    """Number, 0 or 1, or hours to the event or to the end of the last day."""
    event_N: Doubles
    """1 where the event was seen; 1 everywhere unless there are times."""


def model_of(schema: Schema, task: str) -> Model:
    """Return the model that the kind of a task asks for."""
    models: dict[str, Model] = {"binary": "logistic", "real": "linear", "time_to_event": "cox"}
    return models[schema.tasks[task].kind]


def read_candidates(
    wanted: Wanted, dataset: Dataset, *, reps: Reps | None, ranks: Ranks
) -> Candidates:
    """Return this rank's labelled rows. Collective.

    What a row has no value of is the mean of the rows of all ranks that have one: it then says
    nothing.
    """
    days = dataset.between(wanted.first_day, wanted.last_day)
    chosen = select_rows(dataset, domains=[wanted.domain], scenarios=(), days=days, ranks=ranks)
    timed = _with_duration(chosen, wanted.task)
    reader = Reader(timed, config=scoring(wanted.reader), ranks=ranks, seed=0)
    attached = RepsReader(reader, reps, ranks=ranks)
    share = max(1, wanted.max_rows // (len(days) * ranks.world))
    pieces: list[Candidates] = []
    matrix_NP, num_rows = np.empty((0, 0), np.float32), 0
    for day in days:
        ranks.leave_if_stopped("nothing is written; run the same command to begin again")
        for piece in _day(wanted, timed, attached, day, share=share):
            if not pieces:
                # Pages that no row reaches are never touched, and no row is ever held twice.
                matrix_NP = np.empty((share * len(days), len(piece.units_P)), np.float32)
            end = num_rows + len(piece.label_N)
            matrix_NP[num_rows:end] = piece.matrix_NP
            pieces.append(replace(piece, matrix_NP=matrix_NP[num_rows:end]))
            num_rows = end
    if not ranks.sum(np.array([sum(len(one.label_N) for one in pieces)]))[0]:
        raise UserError(
            f"{dataset.path} has no labelled {wanted.domain} rows for task {wanted.task} in the"
            " days chosen; choose others",
            everywhere=True,
        )
    _fill(matrix_NP[:num_rows], ranks=ranks)
    return replace(
        pieces[0],
        matrix_NP=matrix_NP[:num_rows],
        label_N=np.concatenate([one.label_N for one in pieces]),
        event_N=np.concatenate([one.event_N for one in pieces]),
    )


def _with_duration(dataset: Dataset, task: str) -> Dataset:
    """Return the dataset with the time to the event as a label of its own."""
    one = dataset.schema.tasks[task]
    if not one.duration:
        return dataset
    time = Task(label=one.duration, kind="real", domains=one.domains, scenarios=one.scenarios)
    schema = replace(dataset.schema, tasks=dataset.schema.tasks | {_DURATION: time})
    return replace(dataset, schema=schema)


def _day(
    wanted: Wanted, dataset: Dataset, reader: RepsReader, day: int, *, share: int
) -> Iterator[Candidates]:
    left = share
    # The reader is collective at its start only: a rank with its share may leave the rest unread.
    for batch in reader.day(day):
        keep = np.flatnonzero(_usable(wanted, dataset.schema, batch))[:left]
        left -= len(keep)
        label_N, event_N = _outcome(wanted, dataset, batch)
        columns = (
            _features(dataset.schema, batch, buckets=wanted.buckets)
            if wanted.choose == "features"
            else _dims(batch)
        )
        yield Candidates(
            np.concatenate([part[keep] for part in columns.values()], axis=1),
            [name for name, part in columns.items() for _ in range(part.shape[1])],
            [f"{name}:{j}" for name, part in columns.items() for j in range(part.shape[1])],
            label_N[keep],
            event_N[keep],
        )
        if left <= 0:
            return


def _usable(wanted: Wanted, schema: Schema, batch: Batch) -> npt.NDArray[np.bool_]:
    """Return which rows (N,) have the label, and are among those asked for."""
    tasks = list(schema.tasks)
    at = tasks.index(wanted.task)
    usable_N = batch.valid & (batch.masks[:, at] > 0)
    if wanted.among:
        usable_N &= batch.labels[:, tasks.index(wanted.among)] > 0
    if _DURATION in tasks:
        # An event at no known time is neither seen nor censored.
        usable_N &= (batch.labels[:, at] == 0) | (batch.masks[:, tasks.index(_DURATION)] > 0)
    return usable_N.numpy()


def _outcome(wanted: Wanted, dataset: Dataset, batch: Batch) -> tuple[Doubles, Doubles]:
    """Return labels or hours (N,), and which rows' events were seen (N,).

    Rows are censored at the end of the last day: what comes after it is the future.
    """
    tasks = list(dataset.schema.tasks)
    label_N = batch.labels[:, tasks.index(wanted.task)].numpy().astype(np.float64)
    if _DURATION not in tasks:
        return label_N, np.ones(len(label_N))
    delay_N = batch.labels[:, tasks.index(_DURATION)].numpy().astype(np.float64)
    left_N = np.maximum(dataset.end_of_day(wanted.last_day) - batch.time.numpy(), 0).astype(float)
    seen_N = (label_N > 0) & (delay_N <= left_N)
    return np.where(seen_N, delay_N, left_N) / _HOUR_MS, seen_N.astype(np.float64)


def _fill(matrix_NP: Floats, *, ranks: Ranks) -> None:
    """Replace what is absent by the mean of the rows of all ranks, in place."""
    blocks = [matrix_NP[at : at + _BLOCK_ROWS] for at in range(0, len(matrix_NP), _BLOCK_ROWS)]
    sums_2P = np.zeros((2, matrix_NP.shape[1]))
    for block in blocks:
        known = ~np.isnan(block)
        sums_2P += [block.sum(0, dtype=np.float64, where=known), known.sum(0)]
    sum_P, count_P = ranks.sum(sums_2P)
    mean_P = (sum_P / np.maximum(count_P, 1.0)).astype(np.float32)
    for block in blocks:
        np.copyto(block, mean_P, where=np.isnan(block))


def _dims(batch: Batch) -> dict[str, Floats]:
    """Return representations, NaN where a key has none."""
    present: Mapping[str, Any] = batch.present
    return {
        name: np.where(present[name].numpy()[:, None] > 0, values.numpy(), np.float32(np.nan))
        for name, values in batch.reps.items()
    }


def _features(schema: Schema, batch: Batch, *, buckets: int) -> dict[str, Floats]:
    """Return numbers and vectors as they are, ids as shares of hash buckets."""
    columns: dict[str, Floats] = {}
    for at, name in enumerate(schema.select(kind="number")):
        columns[name] = batch.numbers[:, at : at + 1].numpy()
    at = 0
    for name in schema.select(kind="vector"):
        width = schema.features[name].length
        columns[name] = batch.vectors[:, at : at + width].numpy()
        at += width
    for name in schema.select(sparse=True):
        jagged = batch.sparse[name]
        lengths = jagged.lengths().long()
        row_of = torch.repeat_interleave(torch.arange(len(batch)), lengths)
        # A multiplicative hash: neighbouring ids must not share a bucket for a reason.
        bucket = (jagged.values() * 2_654_435_761 >> 16) % buckets
        shares = torch.zeros(len(batch), buckets)
        weight = 1.0 / lengths.clamp(min=1).float()
        shares.index_put_((row_of, bucket), weight[row_of], accumulate=True)
        columns[name] = shares.numpy()
    return columns
