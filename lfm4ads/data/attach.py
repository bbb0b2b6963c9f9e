"""Frozen representations joined to batches by key, each day with those of a day before it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.batch import Batch
from lfm4ads.data.decay import Int64s
from lfm4ads.data.manifest import RepSide, available_versions
from lfm4ads.data.moments import Moments
from lfm4ads.data.reader import Reader
from lfm4ads.data.reps import open_snapshot, snapshot_before
from lfm4ads.data.snapshot import Snapshot
from lfm4ads.data.table import Lookup, RepsTable

_KEEP_BYTES = 1 << 30
SIDES: tuple[RepSide, RepSide] = ("user", "item")


def resolve_version(root: Path, wanted: str) -> str:
    """Return the wanted upstream version, or the only one there is when none was named."""
    found = available_versions(root)
    if wanted or len(found) == 1:
        return wanted or found[0]
    raise UserError(
        f"{root} holds {len(found)} upstream versions ({', '.join(found) or 'none'});"
        + (" pass input.upstream=<version> to choose one" if found else " run dump first")
    )


@dataclass(frozen=True)
class Reps:
    """Representations of one upstream version that a model reads, named ``side.name``."""

    root: Path
    version: str
    names: tuple[str, ...]
    reference: int = 0
    """Day whose representations set the scale that those of all days are put on; 0 leaves them."""
    as_of: int = 0
    """Snapshot that samples of every day read; 0: the newest before their own. One for all days
    tells training samples of their future, as the public code of LFM4Ads does."""

    def before(self, day: int) -> Snapshot:
        """Open the newest snapshot strictly before ``day``: nothing of the day itself enters."""
        if self.as_of:
            return open_snapshot(self.root, version=self.version, as_of=self.as_of)
        return snapshot_before(self.root, version=self.version, day=day)

    def every(self, day: int) -> tuple[str, ...]:
        """Return the names of all representations that samples of ``day`` may read."""
        header = self.before(day).manifest.header
        return tuple(f"{spec.side}.{spec.name}" for spec in header.representations)

    def keys(self, day: int) -> dict[RepSide, Int64s]:
        """Return every key that has representations which samples of ``day`` may read."""
        snapshot = self.before(day)
        return {side: snapshot.keys(side) for side in SIDES}

    def dims(self, day: int) -> dict[str, int]:
        """Return the width of every named representation, or say which one the snapshot lacks."""
        specs = {
            f"{spec.side}.{spec.name}": spec.dim
            for spec in self.before(day).manifest.header.representations
        }
        missing = [name for name in self.names if name not in specs]
        if missing:
            raise UserError(
                f"{self.root} has no representation {missing[0]}; it has {', '.join(sorted(specs))}"
            )
        return {name: specs[name] for name in self.names}

    def moments(self, day: int) -> dict[str, Moments]:
        """Return the moments of every named representation that samples of ``day`` read."""
        snapshot = self.before(day)
        return {
            f"{side}.{name}": snapshot.moments(side, name)
            for side in SIDES
            for name in self.of_side(side)
        }

    def tables(self, day: int, keys: Mapping[RepSide, Int64s]) -> dict[RepSide, RepsTable]:
        """Return what samples of ``day`` read of the keys, on the scale of the reference day."""
        snapshot = self.before(day)
        tables: dict[RepSide, RepsTable] = {
            side: snapshot.subset(side, self.of_side(side), keys[side])
            for side in SIDES
            if self.of_side(side)
        }
        if self.reference and self.before(self.reference).folder != snapshot.folder:
            wanted, own = self.moments(self.reference), self.moments(day)
            for side, table in tables.items():
                for name, values in table.values.items():
                    present = table.present[name]
                    to, of = wanted[f"{side}.{name}"], own[f"{side}.{name}"]
                    values[present] = (values[present] - of.mean) / of.std * to.std + to.mean
        return tables

    def of_side(self, side: RepSide) -> Sequence[str]:
        """Return the names of one side, without the side."""
        return [name.split(".", 1)[1] for name in self.names if name.startswith(f"{side}.")]


def all_representations(root: Path, *, version: str, day: int) -> tuple[str, ...]:
    """Return the names of every representation that samples of ``day`` may read."""
    return Reps(root, version, ()).every(day)


class KeptTables:
    """Vectors that readers of the same rows share: arms, training and scoring, later epochs."""

    def __init__(self, *, limit_bytes: int = _KEEP_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._days: dict[int, dict[RepSide, RepsTable]] = {}

    def tables(
        self, day: int, reps: Reps, keys: Callable[[], Mapping[RepSide, Int64s]]
    ) -> dict[RepSide, RepsTable]:
        """Return what samples of ``day`` read; from disk only what is not here already.

        A day is kept while all that is kept fits into the limit. One snapshot for all days is read
        whole, once.
        """
        place = reps.as_of or day
        tables = dict(self._days.get(place, {}))
        missing = tuple(
            f"{side}.{name}"
            for side in SIDES
            for name in reps.of_side(side)
            if side not in tables or name not in tables[side].values
        )
        if missing:
            wanted: Mapping[RepSide, Int64s] = keys() if not reps.as_of else reps.keys(day)
            for side, table in replace(reps, names=missing).tables(day, wanted).items():
                tables[side] = tables[side].beside(table) if side in tables else table
        others = (kept for other, kept in self._days.items() if other != place)
        size = sum(table.num_bytes for kept in (*others, tables) for table in kept.values())
        if size <= self._limit_bytes:
            self._days[place] = tables
        return {side: tables[side].only(reps.of_side(side)) for side in SIDES if reps.of_side(side)}


class RepsReader:
    """Reads days like ``Reader`` and puts the day's representations on every batch.

    Only vectors of keys that occur in this rank's rows of the day are held in memory, and of days
    what ``kept`` keeps.
    """

    def __init__(
        self, reader: Reader, reps: Reps | None, *, ranks: Ranks, kept: KeptTables | None = None
    ) -> None:
        """``kept`` may be shared by readers of the same rows, upstream and reference day."""
        self._reader = reader
        self._reps = reps
        self._ranks = ranks
        self._kept = kept or KeptTables()

    def num_steps(self, day: int) -> int:
        """Return the number of global steps of a day."""
        return self._reader.num_steps(day)

    def day(self, day: int, *, epoch: int = 0) -> Iterator[Batch]:
        """Yield this rank's batches of a day, with representations of a day before. Collective."""
        batches = self._reader.day(day, epoch=epoch)
        if self._reps is None or not self._reps.names:
            yield from batches
            return
        tables = self._tables(day, self._reps)
        for batch in batches:
            for side, table in tables.items():
                found = table.lookup((batch.user if side == "user" else batch.item).numpy())
                if not self._reps.as_of:
                    _refuse_future(found, batch, side=side, reps=self._reps)
                for name, values in found.values.items():
                    # Padding has key 0, which may be somebody's.
                    present = found.present[name] & batch.valid.numpy()
                    values[~present] = 0.0
                    batch.reps[f"{side}.{name}"] = torch.from_numpy(values)
                    batch.present[f"{side}.{name}"] = torch.from_numpy(present).float()
            yield batch

    def _tables(self, day: int, reps: Reps) -> dict[RepSide, RepsTable]:
        tables: dict[RepSide, RepsTable] = {}
        with self._ranks.together():
            tables |= self._kept.tables(day, reps, lambda: self._keys(day))
        return tables

    def _keys(self, day: int) -> dict[RepSide, Int64s]:
        users, items = self._reader.keys(day)
        return {"user": users, "item": items}


def _refuse_future(found: Lookup, batch: Batch, *, side: RepSide, reps: Reps) -> None:
    """Check what no manifest can promise: no event of a key is as late as the row that reads it."""
    late = (found.last_time >= batch.time.numpy()) & (found.events > 0) & batch.valid.numpy()
    if late.any():
        row = int(np.argmax(late))
        raise UserError(
            f"a row of day {batch.day} (row_id {int(batch.row_id[row])}) would read a {side}"
            f" representation with an event at {found.last_time[row]} ms, not before its own time"
            f" {int(batch.time[row])} ms: {reps.root} leaks the future; rerun dump from the dataset"
            " that is read here"
        )
