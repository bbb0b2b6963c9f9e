"""Which id has which row, step by step, against a reference with dicts and loops."""

from itertools import pairwise

import numpy as np
import pytest

from lfm4ads.data.hashing import mix_ids
from lfm4ads.shard.idcache import NO_ID, IdCache
from lfm4ads.shard.idspace import IdsConfig, geometry_of
from tests.unit.shard.plain_ids import PlainIds

WAYS = 4


def stream(steps, *, seed=0, batch=60, spread=400, drift=0):
    """Yield {id: sightings} of each step: few ids often, many seldom, and new ones over time."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        ranks = np.minimum(rng.zipf(1.3, batch) - 1, spread) + drift * step
        size = int(rng.integers(0, batch + 1))
        ids, times = np.unique(mix_ids(ranks[:size], table="user"), return_counts=True)
        yield dict(zip(ids.tolist(), times.tolist(), strict=True))


def caches(config, *, rows=200, parts=1):
    geometry = geometry_of(rows, ways=config.ways, overflow_ratio=config.overflow_ratio)
    bounds = [geometry.buckets * part // parts for part in range(parts + 1)]
    return geometry, [
        IdCache(geometry, config=config, first=first, last=last) for first, last in pairwise(bounds)
    ]


def admit(parts, times, step):
    """Return {id: row or None} and the rows evicted, of a cache cut into parts."""
    ids = np.array(sorted(times), dtype=np.int64)
    rows, evicted = {}, []
    for part in parts:
        buckets = part.geometry.bucket(ids)
        own = ids[(buckets >= part.first) & (buckets < part.last)]
        found = part.admit(own, times=np.array([times[i] for i in own.tolist()], int), step=step)
        first = part.first * part.rows.ways
        rows |= {
            one: None if slot < 0 else first + slot
            for one, slot in zip(own.tolist(), found.slots.tolist(), strict=True)
        }
        evicted += (first + found.evicted).tolist()
    return rows, sorted(evicted)


CONFIGS = {
    "lfu": {},
    "lru": {"policy": "lru"},
    "lfu, halved": {"half_life_steps": 3},
    "lfu, kept for a while": {"min_idle_steps": 4, "half_life_steps": 5},
    "lru, kept for a while": {"policy": "lru", "min_idle_steps": 4},
    "lfu, admitted late": {"admit_after": 3, "half_life_steps": 7},
    "lru, admitted late": {"policy": "lru", "admit_after": 2, "ghosts_per_row": 2},
    "lfu, one way": {"ways": 1, "half_life_steps": 4},
    "lfu, no ghosts": {"ghosts_per_row": 0},
}


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_rows_are_those_of_the_reference_at_every_step(name, parts):
    config = IdsConfig(**{"ways": WAYS, "half_life_steps": 0, **CONFIGS[name]})
    geometry, cut = caches(config, parts=parts)
    plain = PlainIds(geometry, config)
    changed = shared = 0
    for step, times in enumerate(stream(60, drift=3), start=1):
        rows, evicted = admit(cut, times, step)
        assert (rows, evicted) == plain.admit(times, step), step
        changed, shared = changed + len(evicted), shared + list(rows.values()).count(None)
    assert changed > 20
    assert shared > 0 or name == "lru"


def test_an_id_keeps_its_row_and_no_row_has_two_ids():
    _, (cache,) = caches(IdsConfig(ways=WAYS, min_idle_steps=1000))
    known = {}
    for step, times in enumerate(stream(30), start=1):
        rows, evicted = admit([cache], times, step)
        assert evicted == []
        own = {one: row for one, row in rows.items() if row is not None}
        assert all(known.get(one, row) == row for one, row in own.items())
        known |= own
        assert len(set(known.values())) == len(known)
    assert len(known) <= cache.geometry.first_overflow


def test_ids_seen_often_outlive_a_flood_of_ids_seen_once():
    often = mix_ids(np.arange(40), table="user")
    kept = {}
    for policy in ("lfu", "lru"):
        _, (cache,) = caches(IdsConfig(ways=WAYS, policy=policy, half_life_steps=0), rows=500)
        step, flood = 0, 1000
        for step in range(1, 6):
            cache.admit(np.sort(often), times=np.ones(40, int), step=step)
        for more in range(1, 11):
            ids = np.sort(mix_ids(np.arange(flood, flood + 2000), table="user"))
            flood += 2000
            cache.admit(ids, times=np.ones(2000, int), step=step + more)
        kept[policy] = int((cache.find(often) >= 0).sum())
    assert kept["lfu"] >= 38
    assert kept["lru"] == 0


def test_what_was_seen_often_long_ago_makes_room_when_counts_are_halved():
    now = {}
    for half_life in (0, 10):
        _, (cache,) = caches(IdsConfig(ways=WAYS, half_life_steps=half_life), rows=70)
        step = 0
        for first in (0, 1000):
            ids = np.sort(mix_ids(np.arange(first, first + 64), table="user"))
            for _ in range(60):
                step += 1
                cache.admit(ids, times=np.ones(64, int), step=step)
        now[half_life] = int((cache.find(ids) >= 0).sum())
    assert now[10] >= 40
    assert now[0] <= now[10]


def test_looking_up_changes_nothing():
    _, (cache,) = caches(IdsConfig(ways=WAYS))
    for step, times in enumerate(stream(5), start=1):
        admit([cache], times, step)
    arrays = [cache.rows.ids, cache.rows.marks, cache.ghosts.ids, cache.ghosts.marks]
    before = [one.copy() for one in arrays]
    cache.find(mix_ids(np.arange(300), table="user"))
    assert all(np.array_equal(one, old) for one, old in zip(arrays, before, strict=True))


def test_ids_are_found_where_they_were_put():
    _, (cache,) = caches(IdsConfig(ways=WAYS))
    for step, times in enumerate(stream(20), start=1):
        rows, _ = admit([cache], times, step)
    last = np.array([one for one, row in rows.items() if row is not None])
    assert cache.find(last).tolist() == [rows[one] for one in last.tolist()]
    assert (cache.rows.ids == NO_ID).sum() + len(set(cache.rows.ids.tolist()) - {NO_ID}) == len(
        cache.rows.ids
    )


def test_counts_stop_at_the_most_and_ids_at_the_end_of_their_range():
    _, (cache,) = caches(IdsConfig(ways=WAYS, half_life_steps=0))
    ids = np.array([0, 2**63 - 1])
    for step in range(1, 4):
        found = cache.admit(ids, times=np.array([1 << 40, 1]), step=step)
    assert (found.slots >= 0).all()
    assert (cache.rows.marks >= 0).all()
    assert found.known.all()


def test_buckets_are_filled_evenly_and_overflow_rows_too():
    geometry = geometry_of(1000, ways=WAYS, overflow_ratio=0.1)
    ids = mix_ids(np.arange(100_000), table="user")
    per_bucket = np.bincount(geometry.bucket(ids), minlength=geometry.buckets)
    assert len(per_bucket) == geometry.buckets == 225
    assert per_bucket.min() > 340
    shared = np.unique(geometry.overflow_row(ids), return_counts=True)
    assert shared[0].tolist() == list(range(900, 1000))
    assert shared[1].min() > 850


@pytest.mark.parametrize(
    ("rows", "buckets"), [(33, 1), (32, None), (1, None), (66, 2), (1_000_000, 30761)]
)
def test_a_table_has_whole_buckets_and_a_row_to_share(rows, buckets):
    geometry = geometry_of(rows, ways=32, overflow_ratio=1 / 64)
    assert (geometry and geometry.buckets) == buckets
    assert geometry is None or geometry.first_overflow < rows


@pytest.mark.parametrize(
    "words",
    [
        {"ways": 0},
        {"admit_after": 0},
        {"min_idle_steps": 0},
        {"half_life_steps": -1},
        {"overflow_ratio": 1.0},
        {"admit_after": 2, "ghosts_per_row": 0},
    ],
)
def test_settings_that_cannot_be_are_refused(words):
    with pytest.raises(ValueError, match=r"ids\."):
        IdsConfig(**words)
