"""The sentence that says where a loss that is not finite comes from."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lfm4ads.model.config import LfmConfig
from lfm4ads.model.lfm import Lfm
from lfm4ads.nn.branch import MixConfig
from lfm4ads.nn.experts import ExpertConfig
from lfm4ads.nn.pairs import InterestConfig, PairConfig
from lfm4ads.nn.tables import TableSet
from lfm4ads.train.diagnose import explain_not_finite
from tests.plain import tables_of, unshard

CONFIG = LfmConfig(
    sets={"main": TableSet(), "wide": TableSet(dim=12)},
    pairs=PairConfig(
        interests={"views": InterestConfig(behaviours=("recent",), targets=("item_id",))}
    ),
    mix=MixConfig(experts={"one": ExpertConfig(), "two": ExpertConfig(tables="wide")}),
)


@pytest.fixture
def model(schema):
    return unshard(Lfm(schema, CONFIG), seed=1)


def explain(model, batch, schema):
    """Ask after a forward, as the training loop does."""
    alone = SimpleNamespace(
        model=SimpleNamespace(module=model), dense_parameters=lambda: dict(model.named_parameters())
    )
    model(batch)
    return explain_not_finite(alone, batch, schema)


@pytest.mark.parametrize(
    ("table", "feature"),
    [
        ("main/user", "user_id"),
        ("wide/user", "user_id"),
        ("main/item", "recent"),
        ("wide/item", "item_id"),
        ("wide/tag", "tags"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_table_is_named_by_the_feature_that_read_the_row(
    model, batches, schema, table, feature, value
):
    batch = batches[0]
    readers = [name for name, one in schema.features.items() if one.table == table.split("/")[1]]
    others = {
        row for one in readers if one != feature for row in batch.sparse[one].values().tolist()
    }
    row = next(one for one in batch.sparse[feature].values().tolist() if one not in others)
    with torch.no_grad():
        tables_of(model)[table][row, 2] = value
    assert explain(model, batch, schema) == (
        f"feature {feature} read rows of table {table} that are not finite; lower"
        " shard.optim.sparse_lr"
    )


def test_a_row_that_was_not_read_is_not_blamed(model, batches, schema):
    table = tables_of(model)["main/user"]
    read = set(batches[0].sparse["user_id"].values().tolist())
    with torch.no_grad():
        table[next(row for row in range(len(table)) if row not in read)] = float("nan")
        model.heads.shared[1, 2] = float("nan")
    assert explain(model, batches[0], schema) == (
        "dense parameter heads.shared is not finite; lower shard.optim.dense_lr or"
        " shard.optim.clip_norm"
    )


def test_the_largest_input_is_named_where_all_else_is_finite(model, batches, schema):
    numbers, vectors = batches[0].numbers.clone(), batches[0].vectors.clone()
    numbers[3, 0], vectors[5, 6] = -2e20, 3e10
    found = explain(model, replace(batches[0], numbers=numbers, vectors=vectors), schema)
    assert "the largest input is 2e+20 in number feature age; look for extreme values" in found
    found = explain(model, replace(batches[0], vectors=vectors), schema)
    assert "the largest input is 3e+10 in vector feature picture; look for" in found
    numbers[4, 1] = float("inf")
    found = explain(model, replace(batches[0], numbers=numbers), schema)
    assert found == "number feature price is infinite"


def test_missing_numbers_and_vectors_are_no_fault(model, batches, schema):
    numbers, vectors = batches[0].numbers.clone(), batches[0].vectors.clone()
    numbers[:, 0], vectors[:, :4] = float("nan"), float("nan")
    found = explain(model, replace(batches[0], numbers=numbers, vectors=vectors), schema)
    assert found.startswith("tables and parameters are finite, the largest input is ")
    assert "age" not in found
    assert "taste" not in found
