"""Queries of users and vectors of items as they were known before a day.

Either from stored representations (UR, IR, CR), or from towers of the arm's own: then the newest
vector of each key, from a pass over the log, as dump keeps UR and IR. Both ways nothing of the day
itself enters.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.accumulate import SideAccumulator
from lfm4ads.data.attach import Reps, RepsReader
from lfm4ads.data.batch import Batch
from lfm4ads.data.latest import Latest, route_latest
from lfm4ads.data.manifest import RepSide, RepSpec
from lfm4ads.data.owner import owner
from lfm4ads.model.retrieval import ITEM, Retrieval
from lfm4ads.shard.sharded import Sharded
from lfm4ads.train.interactions import ItemDays
from lfm4ads.train.loop import agreed
from lfm4ads.train.popularity import POPULARITY, Popularity

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]

_CHUNK = 8192
_NAME = "vector"
_SIDES: tuple[RepSide, RepSide] = ("user", "item")


@dataclass(frozen=True, kw_only=True, eq=False)
class DaySpace:
    """What may be known of users and items when ``day`` begins."""

    day: int
    as_of: int
    """YYYYMMDD of the last day whose events are in it."""
    items: Int64s
    """(N,) keys of the catalogue, sorted; the same on every rank."""
    vectors: Float32s
    """(N, D)."""
    users: Int64s
    """(U,) sorted keys of the users that this rank owns and that are known."""
    queries: Callable[[Int64s], Float32s]
    """Queries (Q, D) of users that this rank owns, known or not. Not collective."""


@dataclass(frozen=True, kw_only=True)
class StoredSpace:
    """Queries and items from snapshots of representations."""

    sharded: Sharded
    users: Reps
    items: Reps
    known: ItemDays | None
    """Items of the domain; None: every item that has an IR is in the catalogue."""
    popularity: Popularity | None
    """Appended to IR."""

    def at(self, days: Sequence[int]) -> Iterator[DaySpace]:
        """Yield what is known before each of the days, which ascend. Collective."""
        model = _model(self.sharded)
        ranks = self.sharded.ranks
        for day in days:
            found: list[DaySpace] = []
            with ranks.together():
                found.append(self._day(day, model, ranks=ranks))
            yield found[0]

    def _day(self, day: int, model: Retrieval, *, ranks: Ranks) -> DaySpace:
        snapshot = self.items.before(day)
        as_of = snapshot.manifest.header.as_of
        self._check_dims(day, model)
        keys = self.known.until(as_of) if self.known else snapshot.keys("item")
        table = self.items.tables(day, {"item": np.sort(keys)})["item"]
        present = table.present[ITEM.split(".")[1]][:-1]
        items, values = table.keys[present], table.values[ITEM.split(".")[1]][:-1][present]
        _check_catalogue(items, day=day, as_of=as_of)
        users = self.users.before(day).keys("user")
        parts = {ITEM: values}
        if self.popularity is not None:
            parts[POPULARITY] = self.popularity.of(items, day=day)
        ones = dict.fromkeys(parts, np.ones(len(items), np.float32))

        def queries(users: Int64s) -> Float32s:
            found = self.users.tables(day, {"user": users})["user"].lookup(users)
            values = {f"user.{name}": one for name, one in found.values.items()}
            present = {f"user.{name}": one for name, one in found.present.items()}
            return _encode(model.encode_users, values, present, ranks=ranks)

        return DaySpace(
            day=day,
            as_of=as_of,
            items=items,
            vectors=_encode(model.encode_items, parts, ones, ranks=ranks),
            users=users[owner(users, world=ranks.world) == ranks.rank],
            queries=queries,
        )

    def _check_dims(self, day: int, model: Retrieval) -> None:
        dims = self.users.dims(day) | self.items.dims(day)
        for name, dim in dims.items():
            if model.standardiser.dims[name] != dim:
                raise UserError(
                    f"{self.items.root}: {name} is {dim} wide before {day} but"
                    f" {model.standardiser.dims[name]} where training began; rerun dump for all"
                    " days with one upstream"
                )


@dataclass(frozen=True, kw_only=True)
class OwnSpace:
    """Queries and items from the arm's own towers, the newest of each key."""

    sharded: Sharded
    history: RepsReader
    """Of the domain, on all days before the last asked one."""
    history_days: tuple[int, ...]

    def at(self, days: Sequence[int]) -> Iterator[DaySpace]:
        """Yield what is known before each of the days, which ascend. Collective."""
        dim = _model(self.sharded).dim
        piles: dict[RepSide, SideAccumulator] = {side: _pile(side, dim=dim) for side in _SIDES}
        waiting = list(self.history_days)
        as_of = 0
        for day in days:
            while waiting and waiting[0] < day:
                as_of = waiting.pop(0)
                self._read(as_of, piles)
            yield self._day(day, piles, as_of=as_of)

    @torch.no_grad()
    def _read(self, day: int, piles: Mapping[RepSide, SideAccumulator]) -> None:
        ranks = self.sharded.ranks
        self.sharded.model.eval()
        for batch in agreed(self.history.day(day), ranks=ranks):
            assert batch is not None
            out = self.sharded.model(batch.to(ranks.device))
            valid = batch.valid.numpy()
            both = ((batch.user, out.query_BD), (batch.item, out.item_BD))
            for side, (keys, vectors) in zip(_SIDES, both, strict=True):
                piles[side].add(
                    _NAME,
                    keys=keys.numpy()[valid],
                    vectors=vectors.float().cpu().numpy()[valid],
                    times=batch.time.numpy()[valid],
                    row_ids=batch.row_id.numpy()[valid],
                )

    def _day(self, day: int, piles: Mapping[RepSide, SideAccumulator], *, as_of: int) -> DaySpace:
        ranks = self.sharded.ranks
        own: dict[RepSide, Latest] = {}
        with ranks.together():
            own |= {side: pile.finish().latest[_NAME] for side, pile in piles.items()}
        users, items = (route_latest(ranks, own[side]) for side in _SIDES)
        keys = np.concatenate(ranks.gather(items.keys))
        vectors = np.concatenate(ranks.gather(items.vector))
        order = np.argsort(keys)
        with ranks.together():
            _check_catalogue(keys, day=day, as_of=as_of)
        total = ranks.sum(np.append(users.vector.sum(0, dtype=np.float64), len(users)))
        mean_D = (total[:-1] / max(total[-1], 1)).astype(np.float32)

        def queries(asked: Int64s) -> Float32s:
            place = np.minimum(np.searchsorted(users.keys, asked), max(len(users) - 1, 0))
            found = np.tile(mean_D, (len(asked), 1))
            if len(users):
                known = users.keys[place] == asked
                found[known] = users.vector[place[known]]
            return found

        return DaySpace(
            day=day,
            as_of=as_of,
            items=keys[order],
            vectors=vectors[order],
            users=users.keys,
            queries=queries,
        )


Space = StoredSpace | OwnSpace


def _model(sharded: Sharded) -> Retrieval:
    model = sharded.model.module
    assert isinstance(model, Retrieval)
    return model


def _pile(side: RepSide, *, dim: int) -> SideAccumulator:
    return SideAccumulator([RepSpec(name=_NAME, side=side, kind="latest", dim=dim, read="sum")])


def _check_catalogue(items: Int64s, *, day: int, as_of: int) -> None:
    if not len(items):
        raise UserError(
            f"the catalogue of {day} is empty: no item of the domain is known as of {as_of}; choose"
            " a later day, or pass catalogue=all"
        )


@torch.no_grad()
def _encode(
    encode: Callable[[Batch], torch.Tensor],
    values: Mapping[str, Float32s],
    present: Mapping[str, npt.NDArray[np.generic]],
    *,
    ranks: Ranks,
) -> Float32s:
    """Return what the model makes of representations, a chunk at a time."""
    total = len(next(iter(values.values())))
    parts: list[Float32s] = []
    for start in range(0, max(total, 1), _CHUNK):
        rows = slice(start, start + _CHUNK)
        batch = rep_batch(
            {name: one[rows] for name, one in values.items()},
            {name: one[rows] for name, one in present.items()},
        )
        parts.append(encode(batch.to(ranks.device)).float().cpu().numpy())
    return np.concatenate(parts)


def rep_batch(
    values: Mapping[str, Float32s], present: Mapping[str, npt.NDArray[np.generic]]
) -> Batch:
    """Return a batch of N rows that holds representations and nothing else."""
    count = len(next(iter(values.values())))
    empty, zeros = torch.zeros(count, 0), torch.zeros(count, dtype=torch.int64)
    return Batch(
        sparse=KeyedJaggedTensor(keys=[], values=zeros[:0], lengths=zeros[:0]),
        numbers=empty,
        vectors=empty,
        labels=empty,
        masks=empty,
        user=zeros,
        item=zeros,
        time=zeros,
        domain=zeros,
        scenario=zeros,
        row_id=zeros,
        valid=torch.ones(count, dtype=torch.bool),
        day=0,
        reps={name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in values.items()},
        present={name: torch.from_numpy(one.astype(np.float32)) for name, one in present.items()},
    )
