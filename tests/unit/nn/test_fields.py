"""The field encoder against a loop over rows and features."""

import numpy as np
import pytest
import torch
from torchrec import PoolingType

from lfm4ads.nn.fields import FieldEncoder, build_tables
from tests.batches import lists_of, pad, take

NUMBER_DIM, VECTOR_DIM = 3, 5


def random_tables(schema, features):
    """Tables with memory and large weights, so that no mistake is small."""
    tables = build_tables(schema, features).to_empty(device=torch.device("cpu"))
    for bag in tables.embedding_bags.values():
        torch.nn.init.normal_(bag.weight)
    return tables


def encode_row(encoder, tables, schema, features, batch, row):
    """Embeddings (means over a list, zero for an empty one), numbers x * v + c, mapped vectors."""
    ids = lists_of(batch.sparse)
    embeddings, numbers, vectors = [], [], []
    for name in [name for name in schema.features if name in features]:
        feature = schema.features[name]
        if feature.is_sparse:
            weight = tables.embedding_bags[feature.table].weight.detach().double().numpy()
            found = [weight[value] for value in ids[name][row]]
            embeddings.append(np.mean(found, axis=0) if found else np.zeros(weight.shape[1]))
        elif feature.kind == "number":
            x = batch.numbers[row, schema.select(kind="number").index(name)].nan_to_num().item()
            v, c = (
                one[len(numbers)].detach().double().numpy()
                for one in (encoder.number_weight, encoder.number_bias)
            )
            numbers.append(x * v + c)
        else:
            before = sum(
                schema.features[one].length
                for one in schema.select(kind="vector")
                if list(schema.features).index(one) < list(schema.features).index(name)
            )
            x = batch.vectors[row, before : before + feature.length].nan_to_num().double().numpy()
            linear = encoder.vector_maps[name]
            matrix, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
            vectors.append(matrix @ x + bias)
    return np.concatenate([*embeddings, *numbers, *vectors])


@pytest.mark.parametrize(
    "features",
    [
        ("user_id", "recent", "age", "item_id", "tags", "price", "picture", "hour"),
        ("item_id", "price"),
        ("picture", "tags", "user_id"),
        ("price", "picture"),
        ("hour",),
    ],
    ids="+".join,
)
def test_every_row_is_the_loop(schema, batch, features):
    torch.manual_seed(0)
    tables = random_tables(schema, features)
    encoder = FieldEncoder(schema, features, number_dim=NUMBER_DIM, vector_dim=VECTOR_DIM)
    found = encoder(tables(batch.sparse), batch) if encoder.sparse else encoder(None, batch)
    assert found.shape == (len(batch), encoder.width)
    for row in range(len(batch)):
        wanted = encode_row(encoder, tables, schema, features, batch, row)
        np.testing.assert_allclose(found[row].detach().numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_data_has_what_the_loop_must_see(batch):
    lengths = {name: {len(row) for row in rows} for name, rows in lists_of(batch.sparse).items()}
    assert lengths["recent"] == {0, 1, 2, 3}
    assert {0, 1, 2, 3} <= lengths["tags"]


def test_empty_bags_are_zero(schema, batch):
    features = ("recent", "tags")
    encoder = FieldEncoder(schema, features, number_dim=NUMBER_DIM, vector_dim=VECTOR_DIM)
    padded = pad(take(batch, [0]), 2)
    found = encoder(random_tables(schema, features)(padded.sparse), padded)
    assert torch.equal(found[1:], torch.zeros(2, encoder.width))


def test_padding_and_other_rows_leave_a_row_as_it_is(schema, batch):
    features = tuple(schema.features)
    encoder = FieldEncoder(schema, features, number_dim=NUMBER_DIM, vector_dim=VECTOR_DIM)
    tables = random_tables(schema, features)
    whole = encoder(tables(batch.sparse), batch)
    few = pad(take(batch, [5, 2]), 3)
    torch.testing.assert_close(encoder(tables(few.sparse), few)[:2], whole[[5, 2]])


def test_tables_hold_the_wanted_features_in_schema_order(schema):
    configs = build_tables(schema, ["hour", "item_id", "recent", "age"], prefix="x_")
    tables = {one.name: one for one in configs.embedding_bag_configs()}
    assert {name: one.feature_names for name, one in tables.items()} == {
        "x_item": ["recent", "item_id"],
        "x_tag": ["hour"],
    }
    assert {(one.num_embeddings, one.embedding_dim) for one in tables.values()} == {
        (128, 8),
        (32, 8),
    }
    assert {one.pooling for one in tables.values()} == {PoolingType.SUM}
    assert all(one.weight.is_meta for one in configs.embedding_bags.values())
