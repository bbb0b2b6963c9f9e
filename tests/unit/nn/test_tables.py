"""Tables of one or several sets against plain look-ups."""

import pytest
import torch
from torchrec import PoolingType

from lfm4ads.core.errors import UserError
from lfm4ads.nn.tables import Tables, TableSet, check_features
from tests.batches import lists_of
from tests.unit.nn.lookup import random_tables, weight_of

FEATURES = ("hour", "item_id", "recent", "age", "user_id")
TWO = {"main": TableSet(), "wide": TableSet(dim=16)}


@pytest.mark.parametrize("sets", [{"": TableSet()}, TWO], ids=len)
@pytest.mark.parametrize("unpooled", [(), ("item",), ("item", "user", "tag")], ids=len)
def test_every_feature_finds_its_rows_in_every_set(schema, batch, sets, unpooled):
    tables = random_tables(Tables(schema, FEATURES, sets=sets, unpooled=unpooled))
    looked, lists = tables(batch.sparse), lists_of(batch.sparse)
    for name in ("hour", "item_id", "recent", "user_id"):
        for one, config in sets.items():
            key, weight = tables.key(name, table_set=one), weight_of(tables, name, one, schema)
            assert tables.dim(name, table_set=one) == weight.shape[1] == (config.dim or 8)
            assert tables.is_pooled(name) == (schema.features[name].table not in unpooled)
            if tables.is_pooled(name):
                wanted = torch.stack([weight[row].sum(0) for row in lists[name]])
                torch.testing.assert_close(looked.pooled[key], wanted)
            else:
                wanted = weight[[value for row in lists[name] for value in row]]
                assert torch.equal(looked.rows[key], wanted)


def test_sets_are_tables_of_their_own_on_the_meta_device(schema):
    tables = Tables(schema, FEATURES, sets=TWO, unpooled=("user",))
    bags = {one.name: one for one in tables.bags.embedding_bag_configs()}
    assert {name: one.feature_names for name, one in bags.items()} == {
        f"{prefix}/{table}": names
        for prefix in TWO
        for table, names in (("item", ["recent", "item_id"]), ("tag", ["hour"]))
    }
    shapes = {name: (one.num_embeddings, one.embedding_dim) for name, one in bags.items()}
    assert (shapes["main/item"], shapes["wide/item"]) == ((128, 8), (128, 16))
    assert {one.pooling for one in bags.values()} == {PoolingType.SUM}
    rows = {
        one.name: one.feature_names
        for collection in tables.rows.values()
        for one in collection.embedding_configs()
    }
    assert rows == {"main/user": ["user_id"], "wide/user": ["user_id"]}
    assert len(tables.rows) == 2, "a collection holds tables of one width"
    assert all(parameter.is_meta for parameter in tables.parameters())


def test_a_set_apart_has_its_features_alone_and_the_schemas_widths(schema):
    tables = Tables(
        schema, ("item_id", "tags"), sets={"wide": TableSet(dim=16)}, apart={"own": ["hour"]}
    )
    found = {one.name: one for one in tables.bags.embedding_bag_configs()}
    assert {name: one.feature_names for name, one in found.items()} == {
        "wide/item": ["item_id"],
        "wide/tag": ["tags"],
        "own/tag": ["hour"],
    }
    assert [one.embedding_dim for one in found.values()] == [16, 16, 8]
    assert tables.dim("hour", table_set="own") == 8


def test_gradients_reach_the_rows_looked_up_in_the_set_read(schema, batch):
    tables = random_tables(Tables(schema, ("item_id", "recent"), sets=TWO, unpooled=("item",)))
    looked = tables(batch.sparse)
    looked.rows[tables.key("item_id", table_set="wide")].sum().backward()
    gradient = weight_of(tables, "item_id", "wide", schema).grad
    seen = {row[0] for row in lists_of(batch.sparse)["item_id"]}
    assert set(gradient.abs().sum(1).nonzero().flatten().tolist()) == seen
    other = weight_of(tables, "item_id", "main", schema).grad
    assert other is None or not other.any()


@pytest.mark.parametrize("dim", [-4, 6])
def test_widths_fbgemm_has_not_are_refused(dim):
    with pytest.raises(ValueError, match=f"dim must be a multiple of 4, or 0, got {dim}"):
        TableSet(dim=dim)


def test_features_the_schema_lacks_are_refused_on_every_rank(schema):
    check_features(schema, ("age", "hour"), setting="model.without")
    wanted = r"model\.without names colour, which the schema does not have; its features are user_"
    with pytest.raises(UserError, match=wanted) as caught:
        check_features(schema, ("age", "size", "colour"), setting="model.without")
    assert caught.value.everywhere
