"""Ids of ``managed`` tables on their way to rows, over all ranks.

A rank owns a run of each table's buckets. In a step every rank sends the distinct ids of its rows
to their owners, which work through those of the whole global batch and send rows back: who owns
what, and how many ranks there are, changes nothing. Weights may lie elsewhere, so all ranks are
told which rows changed hands.

Dimension key: N ids of this rank, V ids of a batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.nn.tables import ManagedTable
from lfm4ads.shard.idcache import IdCache
from lfm4ads.shard.idspace import IdsConfig, Int64s, geometry_of

TALLIES = ("lookups", "hits", "entries", "admitted", "evicted")
"""Ids looked up in training, those of them that had a row, those that got one; rows given to a new
id, and those of them taken from another."""


@dataclass(frozen=True)
class IdPiece:
    """A rank's part ``values`` (n,) of an array of ``total`` entries, from its ``first`` on."""

    first: int
    values: Tensor
    total: int


@dataclass(frozen=True, kw_only=True)
class IdRates:
    """What became of the ids that one table was asked for in training."""

    lookups: int
    hit_ratio: float
    """Lookups whose id had a row of its own before the step."""
    admitted_ratio: float
    """Lookups whose id got its row in the step."""
    overflow_ratio: float
    """Lookups that shared a row: the collisions."""
    admitted: int
    """Rows given to a new id."""
    evicted: int
    """Of these, rows taken from another."""
    filled_ratio: float
    """Rows that have an id, of those that can."""


@dataclass(frozen=True)
class _Asked:
    """This rank's distinct ids (N,), sorted, and their owners."""

    ids: Int64s
    times: Int64s
    inverse: Int64s
    """(V,) where each id of the batch is among them."""
    cuts: list[int]
    """Owner r has those from ``cuts[r]`` to ``cuts[r + 1]``."""


class _Map:
    """One table's ids, as far as this rank owns them."""

    def __init__(self, name: str, table: ManagedTable, *, config: IdsConfig, ranks: Ranks) -> None:
        geometry = geometry_of(table.rows, ways=config.ways, overflow_ratio=config.overflow_ratio)
        if geometry is None:
            raise UserError(
                f"table {name} has {table.rows} rows, too few for ids: managed with shard.ids.ways"
                f" {config.ways} and a row to share; give it more rows, fewer ways, or ids: hash",
                everywhere=True,
            )
        self.geometry, self.features = geometry, table.features
        self.bounds = [geometry.buckets * rank // ranks.world for rank in range(ranks.world + 1)]
        first, last = self.bounds[ranks.rank : ranks.rank + 2]
        self.cache = IdCache(geometry, config=config, first=first, last=last)
        self.first_row = first * config.ways
        self.tallies = np.zeros(len(TALLIES), dtype=np.int64)
        """Of this rank, since the last time that ranks added theirs up."""
        self.totals = np.zeros(len(TALLIES), dtype=np.int64)
        """Of all ranks, until then."""

    def distinct(self, ids: Int64s) -> _Asked:
        """Return the distinct ids of a batch."""
        unique, inverse, times = np.unique(ids, return_inverse=True, return_counts=True)
        cuts = np.searchsorted(self.geometry.bucket(unique), self.bounds)
        return _Asked(unique, times, inverse, cuts.tolist())

    def admit(self, ids: Int64s, *, times: Int64s, step: int) -> tuple[Int64s, Int64s]:
        """Return the rows of a step's ids, and the rows that changed hands."""
        found = self.cache.admit(ids, times=times, step=step)
        own = found.slots >= 0
        entered = own & ~found.known
        self.tallies += [
            times.sum(),
            times[found.known].sum(),
            times[entered].sum(),
            entered.sum(),
            len(found.evicted),
        ]
        return self._rows(found.slots, ids=ids), self.first_row + found.evicted

    def find(self, ids: Int64s) -> Int64s:
        """Return the rows of ids without a trace."""
        return self._rows(self.cache.find(ids), ids=ids)

    def _rows(self, slots: Int64s, *, ids: Int64s) -> Int64s:
        return np.where(slots >= 0, self.first_row + slots, self.geometry.overflow_row(ids))

    def pieces(self) -> dict[str, IdPiece]:
        """Return the arrays that are this map; writing to them loads it."""
        pieces = {"tallies": IdPiece(0, torch.from_numpy(self.totals), len(self.totals))}
        for name, shelf in (("row", self.cache.rows), ("ghost", self.cache.ghosts)):
            if shelf.ways:
                first, total = self.cache.first * shelf.ways, self.geometry.buckets * shelf.ways
                pieces[f"{name}_ids"] = IdPiece(first, torch.from_numpy(shelf.ids), total)
                pieces[f"{name}_marks"] = IdPiece(first, torch.from_numpy(shelf.marks), total)
        return pieces


class IdMaps:
    """The maps of all managed tables of one ``Tables``; calling them is a lookup. Collective."""

    def __init__(
        self,
        tables: Mapping[str, ManagedTable],
        *,
        config: IdsConfig,
        ranks: Ranks,
        evict: Callable[[str, Int64s], None],
    ) -> None:
        """``evict`` is told the table and the rows that begin anew, on every rank."""
        self._maps = {
            name: _Map(name, table, config=config, ranks=ranks) for name, table in tables.items()
        }
        self._ranks = ranks
        self._evict = evict
        self._step = np.zeros(1, dtype=np.int64)

    def __call__(self, sparse: KeyedJaggedTensor, *, training: bool) -> KeyedJaggedTensor:
        """Return a batch with rows in place of the ids of managed tables.

        In training ids are counted, and rows are given and taken; otherwise nothing changes, and an
        id without a row has a shared one.
        """
        values = sparse.values().clone()
        slices = self._slices(sparse)
        asked = {
            name: one.distinct(torch.cat([values[part] for part in slices[name]]).cpu().numpy())
            for name, one in self._maps.items()
        }
        rows, evicted = self._exchange(asked, training=training)
        for name, begun in evicted.items():
            if len(begun):
                self._evict(name, begun)
        for name, one in asked.items():
            found = torch.from_numpy(rows[name][one.inverse]).to(values)
            for part in slices[name]:
                size = part.stop - part.start
                values[part], found = found[:size], found[size:]
        return KeyedJaggedTensor(
            keys=sparse.keys(),
            values=values,
            weights=sparse.weights_or_none(),
            lengths=sparse.lengths(),
        )

    def _slices(self, sparse: KeyedJaggedTensor) -> dict[str, list[slice]]:
        """Return where a batch holds the ids of each table."""
        ends = sparse.offset_per_key()
        where = {key: slice(*ends[at : at + 2]) for at, key in enumerate(sparse.keys())}
        return {name: [where[key] for key in one.features] for name, one in self._maps.items()}

    def _exchange(
        self, asked: Mapping[str, _Asked], *, training: bool
    ) -> tuple[dict[str, Int64s], dict[str, Int64s]]:
        """Return the rows (N,) of each table's ids, and the rows of it that begin anew."""
        requests = self._ranks.exchange(
            [_pack([part for one in asked.values() for part in _share(one, rank)])
             for rank in range(self._ranks.world)]
        )  # fmt: skip
        received = [_unpack(one) for one in requests]
        self._step += training
        answers: list[list[Int64s]] = [[] for _ in received]
        for at, one in enumerate(self._maps.values()):
            rows, evicted = self._answer(
                one,
                ids=[parts[2 * at] for parts in received],
                times=[parts[2 * at + 1] for parts in received],
                training=training,
            )
            for answer, own in zip(answers, rows, strict=True):
                answer += [own, evicted]
        replies = [_unpack(one) for one in self._ranks.exchange([_pack(one) for one in answers])]
        columns = [np.concatenate(parts) for parts in zip(*replies, strict=True)]
        names = list(self._maps)
        return dict(zip(names, columns[::2], strict=True)), dict(
            zip(names, columns[1::2], strict=True)
        )

    def _answer(
        self, one: _Map, *, ids: Sequence[Int64s], times: Sequence[Int64s], training: bool
    ) -> tuple[list[Int64s], Int64s]:
        """Return the rows of each rank's ids, and the rows that changed hands."""
        unique, inverse = np.unique(np.concatenate(ids), return_inverse=True)
        evicted = np.zeros(0, dtype=np.int64)
        if training:
            total = np.zeros(len(unique), dtype=np.int64)
            np.add.at(total, inverse, np.concatenate(times))
            rows, evicted = one.admit(unique, times=total, step=int(self._step[0]))
        else:
            rows = one.find(unique)
        return np.split(rows[inverse], np.cumsum([len(part) for part in ids])[:-1]), evicted

    def rates(self) -> dict[str, IdRates]:
        """Return what became of ids since ``rates`` was last asked, over all ranks. Collective."""
        self.settle()
        rates: dict[str, IdRates] = {}
        for name, one in self._maps.items():
            lookups, hits, entries, admitted, evicted = one.totals.tolist()
            filled = int(self._ranks.sum(np.array([(one.cache.rows.ids >= 0).sum()]))[0])
            asked = max(lookups, 1)
            rates[name] = IdRates(
                lookups=lookups,
                hit_ratio=hits / asked,
                admitted_ratio=entries / asked,
                overflow_ratio=(lookups - hits - entries) / asked,
                admitted=admitted,
                evicted=evicted,
                filled_ratio=filled / one.geometry.first_overflow,
            )
            one.totals[:] = 0
        return rates

    def settle(self) -> None:
        """Add up what ranks counted, before a save: the sums are in the state. Collective."""
        for one in self._maps.values():
            one.totals += self._ranks.sum(one.tallies)
            one.tallies[:] = 0

    def state(self) -> dict[str, IdPiece]:
        """Return every array by ``<table>.<array>``, views that are loaded by writing to them.

        ``step`` and ``tallies`` are whole and the same on every rank; the others are cut over them.
        """
        state = {"step": IdPiece(0, torch.from_numpy(self._step), 1)}
        for name, one in self._maps.items():
            state |= {f"{name}.{array}": piece for array, piece in one.pieces().items()}
        return state


def _share(asked: _Asked, rank: int) -> list[Int64s]:
    some = slice(*asked.cuts[rank : rank + 2])
    return [asked.ids[some], asked.times[some]]


def _pack(parts: Sequence[Int64s]) -> Int64s:
    """Return arrays as one: how many, how long, and they themselves."""
    return np.concatenate([[len(parts)], [len(part) for part in parts], *parts]).astype(np.int64)


def _unpack(packed: Int64s) -> list[Int64s]:
    count = int(packed[0])
    return np.split(packed[1 + count :], np.cumsum(packed[1 : 1 + count])[:-1])
