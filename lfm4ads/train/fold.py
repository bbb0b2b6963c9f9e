"""Days of events through a frozen upstream, folded into the representations of their keys.

A day's events are folded into CR with the checkpoint of the day before, which has not seen their
labels; UR and IR come from the checkpoint of the day itself. The days of the base, for which there
is no earlier checkpoint, use the base's own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.accumulate import SideAccumulator
from lfm4ads.data.batch import Batch
from lfm4ads.data.decay import Float32s, Int64s
from lfm4ads.data.index import Dataset
from lfm4ads.data.manifest import RepSide
from lfm4ads.data.ordinals import Tally, empty_tally, ordinals
from lfm4ads.data.reader import Reader
from lfm4ads.data.samples import KEYS, SampleColumns, SamplesWriter
from lfm4ads.data.side import SideStates, route_side
from lfm4ads.data.slots import SIDES, SlotRows, Slots
from lfm4ads.data.snapshot import Snapshot
from lfm4ads.model.lfm import Lfm, LfmOutput
from lfm4ads.shard.place import PlaceConfig
from lfm4ads.shard.sharded import ShardConfig, Sharded, shard_model
from lfm4ads.shard.state import load_weights
from lfm4ads.train.lineage import Lineage
from lfm4ads.train.loop import agreed, progress


@dataclass(kw_only=True)
class Upstream:
    """A frozen upstream model on its ranks, with the weights of one day at a time."""

    lineage: Lineage
    model: Lfm
    sharded: Sharded
    loaded: Path | None = None

    def load(self, day: int) -> None:
        """Put the weights of a day's checkpoint into the model, for inference."""
        self.sharded.model.eval()
        if self.loaded != self.lineage.days[day]:
            load_weights(self.lineage.days[day], self.sharded)
            self.loaded = self.lineage.days[day]

    def lagged(self, day: int) -> int:
        """Return the day of the newest checkpoint that has not seen the labels of ``day``."""
        earlier = [one for one in self.lineage.days if one < day]
        return max(earlier) if earlier else min(self.lineage.days)

    def fresh(self, day: int) -> int:
        """Return the day of the newest checkpoint through ``day``, which UR and IR come from."""
        reached = [one for one in self.lineage.days if one <= day]
        return max(reached) if reached else min(self.lineage.days)


def place_upstream(lineage: Lineage, model: Lfm, *, place: PlaceConfig, ranks: Ranks) -> Upstream:
    """Put a model of the lineage on the ranks, without weights."""
    config = ShardConfig(place=place, ids=lineage.ids)
    sharded = shard_model(model, config=config, ranks=ranks, seed=0)
    return Upstream(lineage=lineage, model=model, sharded=sharded)


def side_by_side(output: LfmOutput, layers: list[str], *, rows: int) -> Float32s:
    """Return the layers of the first rows (N) side by side (N, W)."""
    return torch.cat([output.layers[layer][:rows].float() for layer in layers], dim=1).cpu().numpy()


@dataclass(kw_only=True)
class Folding:
    """The states of this rank since the snapshot that is continued."""

    ranks: Ranks
    dataset: Dataset
    reader: Reader
    upstream: Upstream
    slots: Slots
    samples: Path | None = None
    """Root of the representations, where rows are written too."""
    _piles: dict[RepSide, SideAccumulator] = field(default_factory=dict)
    _tallies: dict[RepSide, Tally] = field(default_factory=dict)

    def start(self, previous: Snapshot | None) -> None:
        """Forget all states; ``previous`` holds what came before the next day."""
        self._piles = {side: SideAccumulator(self.slots.folded(side)) for side in SIDES}
        if self.slots.counts_events:
            self._tallies = {side: self._tally(side, previous) for side in SIDES}

    def _tally(self, side: RepSide, previous: Snapshot | None) -> Tally:
        groups, events = len(self.slots.groups), len(self.slots.events)
        names, ranks = self.slots.counted(), self.ranks

        def before(keys: Int64s) -> Int64s:
            if previous is None:
                return np.zeros((len(keys), len(names)), dtype=np.int64)
            return previous.counts(side, names, keys, rank=ranks.rank, world=ranks.world)

        return empty_tally(num_groups=groups, num_events=events, before=before)

    def add_day(self, day: int) -> None:
        """Fold a day's events. Collective."""
        lagged, fresh = self.upstream.lagged(day), self.upstream.fresh(day)
        cross = _CrossPass(self, day=day, checkpoint_day=lagged)
        for checkpoint in dict.fromkeys((lagged, fresh)):
            self.upstream.load(checkpoint)
            for batch, output in self._outputs(day):
                if checkpoint == lagged:
                    cross.take(batch, output)
                if checkpoint == fresh:
                    self._take_towers(batch, output)
            if checkpoint == lagged:
                cross.finish()

    @torch.no_grad()
    def _outputs(self, day: int) -> Iterator[tuple[Batch, LfmOutput]]:
        for batch in self.batches(day, words=f"dump {day}"):
            yield batch, self.upstream.sharded.model(batch.to(self.ranks.device))

    def batches(self, day: int, *, words: str) -> Iterator[Batch]:
        """Yield this rank's batches of a day; one rank's error is everybody's."""
        steps, source = self.reader.num_steps(day), self.reader.day(day)
        for batch in agreed(
            progress(source, total=steps, words=words, ranks=self.ranks), ranks=self.ranks
        ):
            if batch is not None:
                yield batch

    def _take_towers(self, batch: Batch, output: LfmOutput) -> None:
        """Keep the newest UR of each user and IR of each item."""
        rows = batch.num_valid
        for pile, name, keys, vectors in (
            (self._piles["user"], "ur", batch.user, output.ur),
            (self._piles["item"], "ir", batch.item, output.ir),
        ):
            pile.add(
                name,
                keys=keys[:rows].numpy(),
                vectors=vectors[:rows].float().cpu().numpy(),
                times=batch.time[:rows].numpy(),
                row_ids=batch.row_id[:rows].numpy(),
            )

    def add_cross(self, rows: SlotRows, vectors: Float32s, counted: dict[RepSide, Int64s]) -> None:
        """Fold rows (N,) and their layers (N, W); ``counted`` holds their ordinals (N, E)."""
        slots = self.slots
        for side in SIDES:
            self._piles[side].count(rows.keys[side], times=rows.time)
        for position, group in enumerate(slots.groups):
            for index, event in enumerate(slots.events):
                marked = (rows.group == position) & rows.marks[:, index]
                chosen = slice(None) if marked.all() else marked
                some = vectors[chosen]
                for horizon in slots.horizons:
                    for side in SIDES:
                        by_time = horizon.clock == "time"
                        self._piles[side].add(
                            slots.fold_name(group, event, horizon),
                            keys=rows.keys[side][chosen],
                            vectors=some,
                            times=(rows.time if by_time else counted[side][:, index])[chosen],
                            row_ids=rows.row_id[chosen],
                        )

    def count_day(self, day: int) -> dict[RepSide, Int64s]:
        """Return the ordinals (N, E) of this rank's rows of a day, in the order of its batches."""
        if not self.slots.counts_events:
            return {}
        tasks = list(self.dataset.schema.tasks)
        parts = [self.slots.rows(batch, tasks) for batch in self.batches(day, words=f"count {day}")]
        rows = SlotRows(
            keys={side: np.concatenate([part.keys[side] for part in parts]) for side in SIDES},
            time=np.concatenate([part.time for part in parts]),
            row_id=np.concatenate([part.row_id for part in parts]),
            group=np.concatenate([part.group for part in parts]),
            marks=np.concatenate([part.marks for part in parts]),
        )
        return {
            side: ordinals(self.ranks, rows, side=side, tally=self._tallies[side]) for side in SIDES
        }

    def states(self) -> dict[RepSide, SideStates]:
        """Return the states of the keys this rank owns, one representation a layer. Collective."""
        partial: dict[RepSide, SideStates] = {}
        with self.ranks.together():
            partial = {side: pile.finish() for side, pile in self._piles.items()}
        return {
            side: self.slots.cut(
                route_side(self.ranks, partial[side], self.slots.folded(side)), side
            )
            for side in SIDES
        }


class _CrossPass:
    """One pass over a day's rows that folds, and maybe writes, their cross representations."""

    def __init__(self, folding: Folding, *, day: int, checkpoint_day: int) -> None:
        self._folding = folding
        self._tasks = list(folding.dataset.schema.tasks)
        self._layers = list(folding.slots.layers)
        self._checkpoint_day = checkpoint_day
        self._ordinals = folding.count_day(day)
        self._done = 0
        self._labels = tuple(event for event in folding.slots.events if event)
        self._writer: SamplesWriter | None = None
        if folding.samples is not None:
            self._writer = SamplesWriter(
                folding.samples,
                version=folding.upstream.lineage.version,
                day=day,
                ranks=folding.ranks,
                columns=SampleColumns(labels=self._labels, layers=folding.slots.layers),
            )

    def take(self, batch: Batch, output: LfmOutput) -> None:
        """Fold CR(u, i) of each row's own domain branch into its user and item."""
        rows = self._folding.slots.rows(batch, self._tasks)
        vectors = side_by_side(output, self._layers, rows=len(rows))
        ahead = slice(self._done, self._done + len(rows))
        counted: dict[RepSide, Int64s] = {
            side: counts[ahead] for side, counts in self._ordinals.items()
        }
        self._folding.add_cross(rows, vectors, counted)
        self._done += len(rows)
        if self._writer is not None:
            self._writer.add(_columns(batch, self._tasks, self._labels), vectors)

    def finish(self) -> None:
        """Put the day's samples into place. Collective."""
        if self._writer is not None:
            self._writer.finish(checkpoint_day=self._checkpoint_day)


def _columns(batch: Batch, tasks: list[str], labels: tuple[str, ...]) -> dict[str, pa.Array]:
    valid = batch.valid
    keys = (batch.row_id, batch.user, batch.item, batch.time, batch.domain, batch.scenario)
    columns = {name: pa.array(key[valid].numpy()) for name, key in zip(KEYS, keys, strict=True)}
    for label in labels:
        happened = batch.labels[valid, tasks.index(label)].numpy() > 0
        absent = batch.masks[valid, tasks.index(label)].numpy() == 0
        columns[f"label_{label}"] = pa.array(happened.astype(np.int8), mask=absent)
    return columns


def check_events(events: tuple[str, ...], dataset: Dataset) -> None:
    """Refuse events that are no task."""
    for event in events:
        if event and event not in dataset.schema.binary_tasks:
            raise UserError(
                f"events names {event}; the tasks are {', '.join(dataset.schema.binary_tasks)}",
                everywhere=True,
            )
