"""What the analyses read of rows and of a sharded model, against loops over the same rows."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import mutual_info_score

from lfm4ads.core.errors import UserError
from lfm4ads.data.hashing import hash_ids
from lfm4ads.data.index import open_dataset
from lfm4ads.data.reader import Reader, ReaderConfig
from lfm4ads.data.schema import load_schema
from lfm4ads.model.lfm import Lfm
from lfm4ads.nn.branch import MixConfig
from lfm4ads.nn.experts import ExpertConfig, MergeConfig
from lfm4ads.nn.tables import TableSet
from lfm4ads.nn.tower import TowerConfig
from lfm4ads.shard.place import PlaceConfig
from lfm4ads.shard.sharded import ShardConfig, shard_model
from lfm4ads.train.counted import (
    Fields,
    HistoryConfig,
    Traffic,
    count_history,
    pairable_fields,
    passes,
)
from lfm4ads.train.crossed import field_views
from lfm4ads.train.entangled import PairsConfig, measure_pairs
from lfm4ads.train.learned import learned_history, table_rows
from lfm4ads.train.spectra import measure_tables
from tests.batches import one_rank
from tests.gloo import run_ranks
from tests.multiproc.jobs import INTEREST, PLACES, SEED
from tests.plain import unshard
from tests.worlds import write_tiny

pytestmark = pytest.mark.multiproc
DAYS = (20260101, 20260102)
HISTORY = HistoryConfig(behaviours="recent", target="item_id", categories=6, positions=3)
PLACE = replace(PLACES["mixed"], tables={"main/user": "row_wise", "main/tag": "column_wise"})
SETS = replace(
    INTEREST,
    tower=TowerConfig(rep_dim=0),
    without=("taste", "picture", "age", "price"),
    pairs=replace(INTEREST.pairs, interests={}),
    sets={"click": TableSet(dim=4), "shared": TableSet(dim=8)},
    mix=MixConfig(
        experts={"a": ExpertConfig(tables="click"), "b": ExpertConfig(tables="shared")},
        merge=MergeConfig(kind="gate", per_task=True),
    ),
)


def model_on(ranks, dataset, config, *, place):
    torch.manual_seed(SEED)
    model = Lfm(dataset.schema, config)
    return shard_model(model, config=ShardConfig(place=place), ranks=ranks, seed=SEED)


def body(ranks, folder):
    dataset = open_dataset(folder, ranks)
    config = ReaderConfig(batch_size=64, lanes=4, shuffle=False)
    reader = Reader(dataset, config=config, ranks=ranks, seed=0)
    traffic = Traffic(dataset.schema)
    names = pairable_fields(dataset.schema, without=("age",))
    fields = Fields(dataset.schema, names, task="click", buckets=4)
    for batch in passes(reader, DAYS, ranks=ranks):
        traffic.add(batch)
        fields.add(batch)
    history = count_history(HISTORY, dataset, DAYS, task="click", ranks=ranks)
    interest = model_on(ranks, dataset, INTEREST, place=PLACE)
    learned = learned_history(HISTORY, interest, dataset.schema, history.categories)
    rows = table_rows(interest, "main/item", np.array([5, 90, 5]))
    sets = model_on(ranks, dataset, SETS, place=PlaceConfig(default="column_wise"))
    views = field_views(sets.model.module, dataset.schema, measure_tables(sets))
    pairs = measure_pairs(PairsConfig(), sets, reader, DAYS[1:], ranks=ranks)
    some = measure_pairs(PairsConfig(max_pairs=100), sets, reader, DAYS[1:], ranks=ranks)
    return {
        "traffic": traffic.merged(ranks),
        "fields": fields.merged(ranks),
        "history": history,
        "learned": learned,
        "rows": rows,
        "views": views,
        "pairs": pairs,
        "some": some,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("analysed") / "data", days=2, rows=300)


@pytest.fixture(scope="module")
def found(folder):
    """Results of rank 0 by number of ranks."""
    results = {world: run_ranks(body, world, folder) for world in (1, 2, 4)}
    for every in results.values():
        for one in every[1:]:
            np.testing.assert_array_equal(one["rows"], every[0]["rows"])
    return {world: every[0] for world, every in results.items()}


@pytest.fixture(scope="module")
def rows(folder):
    """All rows as dicts of Python values."""
    return [row for day in DAYS for row in pq.read_table(folder / f"day={day}").to_pylist()]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_traffic_is_every_lookup(found, rows, world):
    traffic = found[world]["traffic"]
    assert {table: set(one) for table, one in traffic.items()} == {
        "user": {"user_id"},
        "item": {"recent", "item_id"},
        "tag": {"tags", "hour"},
    }
    lists = {"tags": [row["tags"] or [] for row in rows], "hour": [[row["hour"]] for row in rows]}
    for name, column in lists.items():
        ids = np.array([one for row in column for one in row])
        wanted = np.bincount(hash_ids(ids, table="tag", rows=32), minlength=32)
        np.testing.assert_array_equal(traffic["tag"][name], wanted)
    assert traffic["item"]["recent"].sum() == sum(min(3, len(row["recent"])) for row in rows)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_history_cell_by_cell(found, rows, world):
    history = found[world]["history"]
    seen = Counter(row["item_id"] for row in rows[:300])
    wanted = sorted(seen, key=lambda one: (-seen[one], one))[:6]
    assert history.categories.tolist() == sorted(wanted)
    for t, target in enumerate(history.categories):
        asked = [row for row in rows if row["item_id"] == target]
        assert history.rows_TY[t].tolist() == [
            sum(row["click"] == label for row in asked) for label in (0, 1)
        ]
        for c, behaviour in enumerate(history.categories):
            for p in range(3):
                there = [
                    len(row["recent"]) > p and row["recent"][-1 - p] == behaviour for row in asked
                ]
                bits = mutual_info_score(there, [row["click"] for row in asked]) / np.log(2)
                assert history.information_TCP[t, c, p] == pytest.approx(bits, abs=1e-12)


def test_what_models_learnt_does_not_depend_on_ranks(found, folder):
    plain = unshard(Lfm(load_schema(folder), INTEREST), seed=SEED)
    tables = {name: value for name, value in plain.state_dict().items() if "main/item" in name}
    (item,) = tables.values()
    one = found[1]
    np.testing.assert_allclose(one["rows"], item[[5, 90, 5]].numpy(), rtol=1e-6)
    assert set(one["learned"]) == {"main/views"}
    assert one["learned"]["main/views"].shape == (6, 6, 3)
    for world in (2, 4):
        other = found[world]
        for name, values in one["learned"].items():
            np.testing.assert_allclose(other["learned"][name], values, rtol=1e-6)
        assert other["fields"] == one["fields"]
        for view, same in zip(one["views"], other["views"], strict=True):
            assert view.names == same.names
            np.testing.assert_allclose(
                same.seen.abundance_NN, view.seen.abundance_NN, rtol=1e-6, atol=1e-6
            )


def test_fields_are_seen_as_features(found):
    views = {view.expert: view for view in found[1]["views"]}
    assert set(views) == {"a", "b"}
    assert views["a"].names == ("user_id", "recent", "item_id", "tags")
    assert np.isfinite(views["a"].seen.abundance_NN).all()
    assert views["a"].seen.abundance_NN.max() <= 4
    assert views["b"].seen.abundance_NN.max() > 4


@pytest.mark.parametrize("world", [1, 2, 4])
def test_pairs_are_those_of_the_rows(found, rows, folder, world):
    pairs, plain = found[world]["pairs"], unshard(Lfm(load_schema(folder), SETS), seed=SEED)
    weights = plain.state_dict()
    late = rows[300:]
    users = hash_ids(np.array([row["user_id"] for row in late]), table="user", rows=64)
    items = hash_ids(np.array([row["item_id"] for row in late]), table="item", rows=128)
    assert sorted(zip(pairs.user_row_N, pairs.item_row_N, strict=True)) == sorted(
        zip(users, items, strict=True)
    )
    for table_set in ("click", "shared"):
        user, item = (
            next(w for n, w in weights.items() if n.endswith(f"{table_set}/{table}.weight"))
            for table in ("user", "item")
        )
        apart = user[pairs.user_row_N] - item[pairs.item_row_N]
        np.testing.assert_allclose(pairs.distance_N[table_set], apart.norm(dim=1), rtol=1e-4)
    tasks = ("click", "long_view", "conversion")
    assert set(pairs.distance_N) == {"click", "shared", *(f"mixture {one}" for one in tasks)}


def test_a_sample_of_pairs_is_the_same_on_every_number_of_ranks(found):
    samples = [sorted(found[world]["some"].distance_N["click"].tolist()) for world in (1, 2, 4)]
    assert 60 < len(samples[0]) < 140
    for one in samples[1:]:
        np.testing.assert_allclose(one, samples[0], rtol=1e-6)


def test_a_history_that_is_none_is_refused(folder):
    dataset = open_dataset(folder, one_rank())
    bad = replace(HISTORY, behaviours="tags")
    with pytest.raises(UserError, match="tags, which is no sequence feature; those are recent"):
        count_history(bad, dataset, DAYS, task="click", ranks=one_rank())
