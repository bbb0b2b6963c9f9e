"""Spectra of tables do not depend on where the tables are."""

import numpy as np
import pytest
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig

from lfm4ads.shard.initialise import row_values
from lfm4ads.shard.place import PlaceConfig
from lfm4ads.shard.sharded import ShardConfig, shard_model
from lfm4ads.shard.whole_rows import whole_rows
from lfm4ads.train.spectra import BESIDE, measure_tables
from tests.gloo import run_ranks

pytestmark = pytest.mark.multiproc
KINDS = ("data_parallel", "table_wise", "row_wise", "column_wise")
SHAPES = {"a/item": (37, 16), "b/item": (37, 8), "a/user": (20, 16), "b/user": (20, 8)}
SEED = 5


class Bags(nn.Module):
    def __init__(self):
        super().__init__()
        tables = [
            EmbeddingBagConfig(
                name=name, num_embeddings=rows, embedding_dim=dim, feature_names=[name[2:]]
            )
            for name, (rows, dim) in SHAPES.items()
        ]
        self.bags = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
        self.head = nn.Linear(1, 1)


def traffic():
    return {"item": {"clicks": np.arange(37) % 5}}


def body(ranks, kinds):
    found = {}
    for kind in kinds:
        place = (
            PlaceConfig(default="row_wise", tables={"b/item": "column_wise"})
            if kind == "mixed"
            else PlaceConfig(default=kind)
        )
        torch.manual_seed(SEED)
        sharded = shard_model(Bags(), config=ShardConfig(place=place), ranks=ranks, seed=SEED)
        grams = measure_tables(sharded, traffic=traffic(), chunk_rows=4)
        seen = [
            (block.first_row + at, rows[at].tolist())
            for block in whole_rows(sharded, ["b/item"], chunk_rows=5)
            for rows in block.rows.values()
            for at in range(len(rows))
        ]
        found[kind] = grams, seen
    return found


def table(name):
    rows, dim = SHAPES[name]
    cells = {"rows": range(rows), "columns": range(dim), "shape": (rows, dim)}
    return row_values(name, **cells, seed=SEED).double().numpy()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_same_spectra_on_every_placement(world):
    kinds = (*KINDS, "mixed")
    results = run_ranks(body, world, kinds)
    wanted = {("item", "a"): table("a/item"), ("item", "b"): table("b/item")}
    wanted |= {("user", "a"): table("a/user"), ("user", "b"): table("b/user")}
    for name in ("item", "user"):
        both = [wanted[name, table_set] for table_set in "ab"]
        wanted[name, BESIDE] = np.concatenate(both, axis=1)
    for kind in kinds:
        rows = sorted(pair for result in results for pair in result[kind][1])
        assert [at for at, _ in rows] == list(range(37)), "every row on one rank"
        np.testing.assert_array_equal([cells for _, cells in rows], table("b/item"))
        for result in results:
            grams = {(one.table, one.table_set): one for one in result[kind][0]}
            assert grams.keys() == wanted.keys()
            for key, matrix in wanted.items():
                found = grams[key].grams
                np.testing.assert_allclose(found["raw"], matrix.T @ matrix, atol=1e-12)
                if key[0] == "item":
                    weight = traffic()["item"]["clicks"][:, None]
                    by = matrix.T @ (weight * matrix)
                    np.testing.assert_allclose(found["by clicks"], by, atol=1e-12)
                else:
                    assert set(found) == {"raw", "normalised"}
