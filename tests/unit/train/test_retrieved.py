"""Lists over the whole catalogue against loops: seen items leave, cold ones count apart."""

from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.train.index import IndexConfig, build_index
from lfm4ads.train.interactions import Pairs
from lfm4ads.train.retrieved import RetrievedScores, Truth, check_k, evaluate, figure_of
from lfm4ads.train.space import DaySpace
from lfm4ads.train.top_lists import compare, search_unseen, write_top_lists
from tests.batches import one_rank

DAY, ITEMS, USERS, DIM = 20260105, 30, 12, 4
BASE = 2**63 - 100
"""Keys that floats cannot tell apart."""


def pairs(rows):
    user, item, scenario = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return Pairs(user=user, item=item, scenario=scenario, positive=np.ones(len(user), np.bool_))


@pytest.fixture
def world():
    """A day of random vectors; items above BASE + 24 are cold, BASE + 60 is in no catalogue."""
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(ITEMS, DIM)).astype(np.float32)
    queries = rng.normal(size=(USERS, DIM)).astype(np.float32)

    def draw(count, last):
        some = (rng.integers(n, size=count) for n in (USERS, last, 3))
        user, item, scenario = some
        return [*zip(user, BASE + item, scenario, strict=True)]

    seen, liked = draw(40, 25), draw(60, ITEMS)
    liked += [(1, BASE + 60, 0), liked[0], (*liked[1][:2], (liked[1][2] + 1) % 3)]
    space = DaySpace(
        day=DAY,
        as_of=DAY - 1,
        items=BASE + np.arange(ITEMS),
        vectors=vectors,
        users=np.arange(USERS),
        queries=lambda users: queries[users],
    )
    truth = Truth(seen=pairs(seen), targets={DAY: pairs(liked)}, warm=BASE + np.arange(25))
    return SimpleNamespace(space=space, truth=truth, scores=queries @ vectors.T)


def by_loops(world, *, k, scenario, cold):
    recall, unknown = [], 0
    seen, liked = world.truth.seen, world.truth.targets[DAY]
    taken = set(zip(seen.user.tolist(), seen.item.tolist(), strict=True))
    for user in range(USERS):
        wanted = {
            int(item)
            for one, item, where in zip(liked.user, liked.item, liked.scenario, strict=True)
            if one == user and scenario in ("all", str(where)) and (user, int(item)) not in taken
        }
        wanted = {item for item in wanted if not cold or item >= BASE + 25}
        unknown += len({item for item in wanted if item >= BASE + ITEMS})
        wanted = {item for item in wanted if item < BASE + ITEMS}
        free = [place for place in range(ITEMS) if (user, BASE + place) not in taken]
        best = sorted(free, key=lambda place: -world.scores[user, place])[:k]
        if wanted:
            recall.append(len(wanted & {BASE + place for place in best}) / len(wanted))
    return np.mean(recall), len(recall), unknown


def test_figures_are_those_of_loops(world):
    space = SimpleNamespace(at=lambda _: [world.space], sharded=None)
    space.sharded = SimpleNamespace(ranks=one_rank())
    rows = evaluate(space, world.truth, days=[DAY], ks=(3, 10), scenarios=3, split="test")
    assert {row["items"] for row in rows} == {"all", "cold"}
    for row in rows:
        cold = row["items"] == "cold"
        found = by_loops(world, k=row["k"], scenario=row["scenario"], cold=cold)
        assert (row["recall"], row["lists"], row["unknown_targets"]) == pytest.approx(found)
    (wanted,) = (r["recall"] for r in rows if r["scenario"] == r["items"] == "all" and r["k"] == 3)
    assert figure_of(rows, k=3, name="recall") == wanted
    assert len(rows) == 2 * 2 * 4


def test_cold_items_are_retrieved(world):
    """A query that is a cold item's own vector, scaled up, finds that item."""
    cold = world.space.vectors[25:]
    queries = 100 * cold / np.linalg.norm(cold, axis=1, keepdims=True) ** 2
    index = build_index(world.space.items, world.space.vectors, config=IndexConfig())
    places, _ = index.search(queries.astype(np.float32), k=10)
    assert all(25 + row in places[row] for row in range(5))


def test_lists_longer_than_the_catalogue_are_refused(world):
    with pytest.raises(UserError, match="ks asks for 31 items but the catalogue of 20260105 holds"):
        check_k(31, world.space)
    with pytest.raises(UserError, match="lower ks"):
        RetrievedScores((31,), scenarios=3).update(world.space, world.truth)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_written_lists_are_the_best_of_what_was_not_seen(world, tmp_path, kind):
    index = build_index(world.space.items, world.space.vectors, config=IndexConfig(kind=kind))
    folder = tmp_path / "lists"
    seen = world.truth.seen
    users = write_top_lists(
        folder, index, world.space, seen=seen, k=5, version="v1", ranks=one_rank()
    )
    assert users == USERS
    assert [path.name for path in tmp_path.iterdir()] == ["lists"]
    rows = pq.read_table(folder / "part-00000.parquet").to_pydict()
    taken = set(zip(seen.user.tolist(), seen.item.tolist(), strict=True))
    place = 0
    for user in range(USERS):
        free = [item for item in range(ITEMS) if (user, BASE + item) not in taken]
        best = sorted(free, key=lambda item: -world.scores[user, item])[:5]
        for rank, item in enumerate(best, start=1):
            assert (rows["user"][place], rows["item"][place]) == (user, BASE + item)
            assert rows["rank"][place] == rank
            assert rows["score"][place] == pytest.approx(world.scores[user, item], rel=1e-4)
            place += 1
    assert place == len(rows["user"])
    found = compare(index, world.space, world.truth, k=5, ranks=one_rank())
    assert (found.recall, found.queries) == (1.0, len(np.unique(world.truth.targets[DAY].user)))


def test_an_index_that_misses_items_is_seen_to(world):
    config = IndexConfig(kind="ivf", cells=8, probes=1)
    vectors = np.repeat(world.space.vectors, 20, axis=0)
    vectors += 0.1 * np.random.default_rng(0).normal(size=vectors.shape).astype(np.float32)
    space = DaySpace(**{**vars(world.space), "items": np.arange(600), "vectors": vectors})
    index = build_index(space.items, vectors, config=config)
    assert compare(index, space, world.truth, k=20, ranks=one_rank()).recall < 0.95


def test_a_user_who_has_seen_all_gets_no_list(world):
    index = build_index(world.space.items, world.space.vectors, config=IndexConfig())
    hidden = (np.zeros(ITEMS, np.int64), np.arange(ITEMS))
    places, scores = search_unseen(index, world.space.queries(np.arange(2)), k=5, hidden=hidden)
    assert (places[0] == -1).all()
    assert np.isneginf(scores[0]).all()
    assert (places[1] >= 0).all()
