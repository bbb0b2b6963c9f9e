"""A finished snapshot of representations, read by owner or by key."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.decay import Int64s, read_sums
from lfm4ads.data.manifest import Manifest, RepSide, RepSpec
from lfm4ads.data.moments import Moments, to_moments
from lfm4ads.data.part import int64s, owned_chunks, readable, valid, vectors_of, weights_of
from lfm4ads.data.side import SideStates, concat_sides
from lfm4ads.data.table import Lookup, RepsTable


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A finished snapshot on disk."""

    folder: Path
    manifest: Manifest

    def paths(self, side: RepSide) -> list[Path]:
        """Return the part files of a side, in owner order."""
        files = sorted(
            (file for file in self.manifest.files if file.side == side), key=lambda file: file.owner
        )
        return [self.folder / file.path for file in files]

    def load_states(self, side: RepSide, ranks: Ranks) -> SideStates:
        """Return the states this rank owns, whatever number of ranks wrote them. Not collective."""
        specs = self.manifest.header.specs(side)
        return concat_sides(list(self.owned(side, rank=ranks.rank, world=ranks.world)), specs)

    def owned(self, side: RepSide, *, rank: int, world: int) -> Iterator[SideStates]:
        """Stream what ``rank`` of ``world`` owns, in ascending key ranges.

        Its own part file alone when the snapshot has as many parts as ranks, all of them otherwise.
        """
        specs = self.manifest.header.specs(side)
        return owned_chunks(
            self._owned(side, rank=rank, world=world), specs, rank=rank, world=world
        )

    def _owned(self, side: RepSide, *, rank: int, world: int) -> list[Path]:
        """Return the part files that may hold a rank's keys."""
        paths = self.paths(side)
        return [paths[rank]] if paths and self.manifest.world == world else paths

    def counts(
        self, side: RepSide, names: Sequence[str], keys: Int64s, *, rank: int, world: int
    ) -> Int64s:
        """Return the events (K, R) of R decayed representations for sorted keys (K,) a rank owns.

        Only counts are read, no vectors.
        """
        columns = [f"{self._spec(side, name).name}_events" for name in names]
        counts = np.zeros((len(keys), len(names)), dtype=np.int64)
        for path in self._owned(side, rank=rank, world=world):
            with readable(path), pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    part = file.read_row_group(group, columns=["key", *columns])
                    _, mine, theirs = np.intersect1d(
                        keys, int64s(part, "key"), assume_unique=True, return_indices=True
                    )
                    for position, column in enumerate(columns):
                        counts[mine, position] = int64s(part, column)[theirs]
        return counts

    def keys(self, side: RepSide) -> Int64s:
        """Return all keys (K,) of a side, sorted."""
        columns = [np.zeros(0, dtype=np.int64)]
        for path in self.paths(side):
            with readable(path):
                columns.append(int64s(pq.read_table(path, columns=["key"]), "key"))
        return np.sort(np.concatenate(columns))

    def lookup(self, side: RepSide, names: Sequence[str], keys: Int64s) -> Lookup:
        """Return representations of keys (N,); an unknown key has zeros and presence False."""
        return self.subset(side, names, keys).lookup(keys)

    def subset(self, side: RepSide, names: Sequence[str], keys: Int64s) -> RepsTable:
        """Read the representations of keys (N,) from the row groups that may hold them.

        A row group is decoded at a time, so memory is bounded by the result.
        """
        specs = [self._spec(side, name) for name in names]
        asked = np.unique(keys)
        table = RepsTable(
            keys=asked,
            values={spec.name: np.zeros((len(asked) + 1, spec.dim), np.float32) for spec in specs},
            present={spec.name: np.zeros(len(asked) + 1, np.bool_) for spec in specs},
            events=np.zeros(len(asked) + 1, np.int64),
            last_time=np.zeros(len(asked) + 1, np.int64),
        )
        for path in self.paths(side):
            _fill(table, path, specs)
        return table

    def moments(self, side: RepSide, name: str) -> Moments:
        """Return the mean and spread of a representation over all keys of its side."""
        self._spec(side, name)
        return to_moments(file.sums[name] for file in self.manifest.files if file.side == side)

    def _spec(self, side: RepSide, name: str) -> RepSpec:
        specs = {spec.name: spec for spec in self.manifest.header.specs(side)}
        if name not in specs:
            raise UserError(
                f"{self.folder} holds {side} representations {sorted(specs)}, not {name}; choose "
                "one of these or rerun dump with it"
            )
        return specs[name]


def _fill(table: RepsTable, path: Path, specs: Sequence[RepSpec]) -> None:
    """Copy the asked keys of one part file into ``table``."""
    columns = ["key", "events", "last_time"]
    for spec in specs:
        columns += [spec.name, *([f"{spec.name}_weight"] if spec.kind == "decayed" else [])]
    with readable(path), pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            statistics = file.metadata.row_group(group).column(0).statistics
            low = np.searchsorted(table.keys, statistics.min, side="left")
            high = np.searchsorted(table.keys, statistics.max, side="right")
            if low == high:
                continue
            _fill_rows(table, file.read_row_group(group, columns=columns), specs)


def _fill_rows(table: RepsTable, part: pa.Table, specs: Sequence[RepSpec]) -> None:
    keys = int64s(part, "key")
    rows = np.searchsorted(table.keys, keys)
    wanted = table.keys[np.minimum(rows, len(table.keys) - 1)] == keys
    part, rows = part.filter(pa.array(wanted)), rows[wanted]
    table.events[rows] = int64s(part, "events")
    table.last_time[rows] = int64s(part, "last_time")
    for spec in specs:
        present = rows[valid(part, spec.name)]
        table.present[spec.name][present] = True
        table.values[spec.name][present] = read_sums(
            vectors_of(part, spec), weights_of(part, spec), spec.read
        )
