"""From row groups to ``Batch``: every row once, in an order the number of ranks cannot change.

A day's rows are cut into ``lanes`` equal runs. A global step takes ``batch_size / lanes`` rows from
each lane; rank r reads lanes r, r + world, ... So the rows of step s are the same on 1, 2 or 100
ranks, ranks end together (short lanes are padded), and a rank decodes only its own lanes. Rows are
shuffled inside windows of a lane by a generator seeded with (seed, epoch, day, lane, window): the
position of a reader is just (epoch, day, step), and resuming there loses and repeats no row.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.batch import Batch
from lfm4ads.data.index import DAY_MS, Dataset, RowGroup
from lfm4ads.data.prefetch import prefetch
from lfm4ads.data.rows import KeptRows, Rows, day_keys, decode, join, no_rows

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """How rows become batches."""

    batch_size: int = 4096
    """Rows of one global step, over all ranks."""
    lanes: int = 8
    """Runs a day is cut into (>= ranks); part of the row order, so keep it when ranks change."""
    shuffle: bool = True
    window_rows: int = 8192
    """Rows of a lane that are shuffled together; memory grows with it."""

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.batch_size < 1 or self.batch_size % self.lanes:
            raise ValueError(
                "reader.batch_size must be a positive multiple of reader.lanes,"
                f" got {self.batch_size} and {self.lanes}"
            )
        if self.window_rows < 1:
            raise ValueError(f"reader.window_rows must be positive, got {self.window_rows}")


def scoring(config: ReaderConfig) -> ReaderConfig:
    """Return the config for scoring: no order, and large steps, since nothing is kept of one."""
    per_lane = -(-max(config.batch_size, 8192) // config.lanes)
    return replace(config, batch_size=per_lane * config.lanes, shuffle=False)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


class Reader:
    """Reads days of one dataset for one rank."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        config: ReaderConfig,
        ranks: Ranks,
        seed: int,
        final_labels: bool = True,
        wait_days: Mapping[str, int] | None = None,
        kept: KeptRows | None = None,
    ) -> None:
        """Without ``final_labels`` an event counts only if it happened by the end of its day.

        Or, for a task in ``wait_days``, by the end of so many days later. ``kept`` may be shared by
        readers of the same dataset.
        """
        if config.lanes < ranks.world:
            raise UserError(
                f"reader.lanes is {config.lanes} but there are {ranks.world} ranks;"
                f" pass reader.lanes={ranks.world} or more",
                everywhere=True,
            )
        self.dataset = dataset
        self._config = config
        self._seed = seed
        self._final_labels = final_labels
        self._wait_days = dict(wait_days or {})
        self._lanes = range(ranks.rank, config.lanes, ranks.world)
        self._lane_rows = config.batch_size // config.lanes
        # A window holds whole steps, so that each step falls into one window.
        self._window_steps = max(1, config.window_rows // self._lane_rows)
        self.local_batch_size = _ceil_div(config.lanes, ranks.world) * self._lane_rows
        # Row groups that the last window of a lane ended in, so the next one begins with.
        self._open: dict[tuple[str, int], Rows] = {}
        self._kept = kept or KeptRows(limit_bytes=0)

    def num_steps(self, day: int) -> int:
        """Return the number of global steps of a day, the same on every rank."""
        lane_rows = _ceil_div(self.dataset.rows(day), self._config.lanes)
        return _ceil_div(lane_rows, self._lane_rows)

    def day(self, day: int, *, epoch: int = 0, start_step: int = 0) -> Iterator[Batch]:
        """Yield this rank's batches of a day from ``start_step`` on, made ahead in a thread."""
        yield from prefetch(self._batches(day, epoch=epoch, start_step=start_step), depth=2)

    def keys(self, day: int) -> tuple[Array, Array]:
        """Return the distinct user and item keys, sorted, of the rows this rank reads of a day.

        Whole row groups are taken, so a few keys of neighbouring lanes may be among them.
        """
        schema = self.dataset.schema
        groups = {
            (group.file, group.index): group
            for lane in self._lanes
            for group, _, _ in self._pieces(day, *self._lane_range(day, lane))
        }
        columns = [
            [day_keys(self.dataset.path, group, column=column) for group in groups.values()]
            for column in (schema.user, schema.item)
        ]
        users, items = (
            np.unique(np.concatenate([np.zeros(0, np.int64), *column])) for column in columns
        )
        return users, items

    def _lane_range(self, day: int, lane: int) -> tuple[int, int]:
        rows, lanes = self.dataset.rows(day), self._config.lanes
        return rows * lane // lanes, rows * (lane + 1) // lanes

    def _batches(self, day: int, *, epoch: int, start_step: int) -> Iterator[Batch]:
        steps = self.num_steps(day)
        for index in range(start_step // self._window_steps, _ceil_div(steps, self._window_steps)):
            rows, orders = self._window(day, index, epoch=epoch)
            first = index * self._window_steps
            for step in range(max(start_step, first), min(steps, first + self._window_steps)):
                begin = (step - first) * self._lane_rows
                parts = [order[begin : begin + self._lane_rows] for order in orders]
                yield self._batch(rows.take(np.concatenate(parts)), day=day)

    def _window(self, day: int, index: int, *, epoch: int) -> tuple[Rows, list[Array]]:
        """Return the rows of a window of every lane, and each lane's order of its own."""
        window_rows = self._window_steps * self._lane_rows
        pieces, orders, base = [], [], 0
        used: dict[tuple[str, int], Rows] = {}
        again: dict[tuple[str, int], Rows] = {}
        for lane in self._lanes:
            first, last = self._lane_range(day, lane)
            start = min(first + index * window_rows, last)
            stop = min(start + window_rows, last)
            for group, begin, end in self._pieces(day, start, stop):
                key = (group.file, group.index)
                if key not in used:
                    used[key] = self._open[key] if key in self._open else self._decode(day, group)
                pieces.append(used[key].slice(begin, end))
                if end < group.rows:
                    again[key] = used[key]
            order = np.arange(stop - start)
            if self._config.shuffle:
                seed = (self._seed, epoch, day, lane, index)
                order = np.random.default_rng(seed).permutation(stop - start)
            orders.append(base + order)
            base += stop - start
        self._open = again
        return join(pieces) if pieces else no_rows(self.dataset.schema), orders

    def _pieces(self, day: int, start: int, stop: int) -> Iterator[tuple[RowGroup, int, int]]:
        """Yield the row groups of the day's rows ``start`` to ``stop``, with the run in each."""
        base = 0
        for group in self.dataset.groups(day):
            if group.rows and base < stop and base + group.rows > start:
                yield group, max(start - base, 0), min(stop - base, group.rows)
            base += group.rows

    def _decode(self, day: int, group: RowGroup) -> Rows:
        horizons = self._horizons(day)
        return self._kept.get(
            (group.file, group.index, repr(horizons)),
            lambda: decode(self.dataset, group, horizons=horizons),
        )

    def _horizons(self, day: int) -> dict[str, int] | None:
        """Return for each task the time (ms) until which its events count; None: all count."""
        if self._final_labels:
            return None
        days = sorted(self.dataset.days)
        horizons: dict[str, int] = {}
        for task in self.dataset.schema.tasks:
            wait = self._wait_days.get(task, 0)
            closing = days[min(days.index(day) + wait, len(days) - 1)]
            # Nothing is known after the log of the last day waited for was closed.
            ends = self.dataset.end_of_day(day) + wait * DAY_MS, self.dataset.end_of_day(closing)
            horizons[task] = min(ends)
        return horizons

    def _batch(self, rows: Rows, *, day: int) -> Batch:
        padded = {name: self._padded(array) for name, array in rows.arrays.items()}
        ages = {name: column.ages for name, column in rows.lists.items()}
        return Batch(
            sparse=self._sparse(rows),
            numbers=padded["numbers"],
            vectors=padded["vectors"],
            labels=padded["labels"],
            masks=padded["masks"],
            user=padded["user"],
            item=padded["item"],
            time=padded["time"],
            domain=padded["domain"],
            scenario=padded["scenario"],
            row_id=padded["row_id"],
            valid=torch.arange(self.local_batch_size) < len(rows),
            day=day,
            ages={name: torch.from_numpy(one) for name, one in ages.items() if one is not None},
        )

    def _padded(self, array: Array) -> torch.Tensor:
        missing = self.local_batch_size - len(array)
        if missing:
            zeros = np.zeros((missing, *array.shape[1:]), dtype=array.dtype)
            array = np.concatenate([array, zeros])
        return torch.from_numpy(array)

    def _sparse(self, rows: Rows) -> KeyedJaggedTensor:
        schema = self.dataset.schema
        names = schema.select(sparse=True)
        lengths = np.zeros((len(names), self.local_batch_size), dtype=np.int32)
        values: list[Array] = [np.zeros(0, dtype=np.int64)]
        lines = np.ascontiguousarray(rows.ids.T)
        ids = iter(zip(lines, lines >= 0, strict=True))
        for place, name in enumerate(names):
            if name in rows.lists:
                column = rows.lists[name]
                lengths[place, : len(rows)] = column.counts
                values.append(column.values)
            else:
                line, known = next(ids)
                lengths[place, : len(rows)] = known
                values.append(line if known.all() else line[known])
        return KeyedJaggedTensor(
            keys=names,
            values=torch.from_numpy(np.concatenate(values)),
            lengths=torch.from_numpy(lengths.reshape(-1)),
        )
