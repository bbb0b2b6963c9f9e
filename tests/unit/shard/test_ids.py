"""A batch through the maps of one rank: values, features that share a table, rates, refusal."""

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from lfm4ads.core.errors import UserError
from lfm4ads.data.hashing import mix_ids
from lfm4ads.nn.tables import ManagedTable
from lfm4ads.shard.ids import IdMaps, _pack, _unpack
from lfm4ads.shard.idspace import IdsConfig
from tests.batches import one_rank

TABLES = {
    "user": ManagedTable(rows=9, features=("user_id",), names=("user",)),
    "item": ManagedTable(rows=40, features=("item_id", "recent"), names=("main/item", "wide/item")),
}


def maps_of(*, evicted=None, config=None):
    def evict(table, rows):
        if evicted is not None:
            evicted.append((table, rows.tolist()))

    return IdMaps(TABLES, config=config or IdsConfig(ways=4), ranks=one_rank(), evict=evict)


def batch(user, item, recent):
    """Return features in another order than the tables', one of them of no managed table."""
    lists = {"recent": recent, "hour": [[3], [4]], "user_id": user, "item_id": item}
    salts = {"recent": "item", "item_id": "item", "user_id": "user"}
    values = [
        mix_ids(np.array([one for row in rows for one in row], dtype=np.int64), table=salts[name])
        if name in salts
        else np.array([one for row in rows for one in row])
        for name, rows in lists.items()
    ]
    return KeyedJaggedTensor(
        keys=list(lists),
        values=torch.from_numpy(np.concatenate(values)),
        lengths=torch.tensor([len(row) for rows in lists.values() for row in rows]),
    )


def test_one_id_has_one_row_in_all_features_of_a_table_and_other_features_stay():
    maps, one = maps_of(), batch([[7], [8]], [[1], [2]], [[2, 1, 2], []])
    before = one.values().clone()
    found = maps(one, training=True)
    assert torch.equal(one.values(), before)
    assert found.keys() == one.keys()
    assert torch.equal(found.lengths(), one.lengths())
    assert found["hour"].values().tolist() == [3, 4]
    first, second = found["item_id"].values().tolist()
    assert found["recent"].values().tolist() == [second, first, second]
    assert first != second
    assert max(first, second) < 40
    assert len(set(found["user_id"].values().tolist())) == 2
    assert torch.equal(maps(one, training=False).values(), found.values())


def test_ids_without_a_row_share_some_and_leave_no_trace_when_scored():
    maps = maps_of()
    many = batch([[*range(50)], []], [[], []], [[], []])
    for _ in range(2):
        assert set(maps(many, training=False)["user_id"].values().tolist()) == {8}
    assert maps.rates()["user"].lookups == 0
    rows = maps(many, training=True)["user_id"].values().tolist()
    assert set(rows) == set(range(9))
    assert rows.count(8) == 42
    rates = maps.rates()["user"]
    assert (rates.lookups, rates.hit_ratio, rates.admitted, rates.filled_ratio) == (50, 0, 8, 1)
    assert rates.overflow_ratio == pytest.approx(42 / 50)
    assert maps.rates()["user"].lookups == 0


def test_rows_that_change_hands_are_told_by_table():
    evicted = []
    maps = maps_of(evicted=evicted, config=IdsConfig(ways=4, policy="lru"))
    maps(batch([[*range(50)], []], [[], []], [[], []]), training=True)
    assert evicted == []
    found = maps(batch([[*range(100, 150)], []], [[], []], [[], []]), training=True)
    ((table, rows),) = evicted
    assert table == "user"
    assert sorted(rows) == list(range(8))
    assert set(rows) < set(found["user_id"].values().tolist())
    assert maps.rates()["user"].evicted == 8


def test_state_written_over_is_the_map_it_came_from():
    one, other = maps_of(), maps_of()
    for step in range(5):
        maps = batch([[step, step + 1], [9]], [[step], [2]], [[3 * step], [1]])
        one(maps, training=True)
    one.settle()
    for name, piece in one.state().items():
        assert piece.first == 0
        other.state()[name].values.copy_(piece.values)
    new = batch([[1, 77], [9]], [[2], [2]], [[3], [55]])
    assert torch.equal(one(new, training=True).values(), other(new, training=True).values())
    assert one.rates() == other.rates()


def test_an_empty_step_counts_as_a_step():
    maps = maps_of()
    maps(batch([[], []], [[], []], [[], []]), training=True)
    assert maps.state()["step"].values.tolist() == [1]


def test_a_table_without_room_for_a_bucket_is_refused():
    with pytest.raises(UserError, match="table user has 9 rows, too few for ids: managed"):
        maps_of(config=IdsConfig(ways=9))


def test_arrays_travel_as_one():
    arrays = [np.arange(3), np.zeros(0, dtype=np.int64), np.array([2**62])]
    assert [one.tolist() for one in _unpack(_pack(arrays))] == [one.tolist() for one in arrays]
