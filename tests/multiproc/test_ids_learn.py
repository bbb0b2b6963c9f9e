"""More ids than rows: what a table that gives popular ids rows of their own is worth."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from lfm4ads.data.hashing import hash_ids, mix_ids
from lfm4ads.data.schema import load_schema
from lfm4ads.nn.tables import Tables, TableSet
from lfm4ads.shard.idspace import IdsConfig
from lfm4ads.shard.optim import OptimConfig
from lfm4ads.shard.sharded import ShardConfig, shard_model
from tests.gloo import run_ranks
from tests.worlds import SCHEMA, write_tiny

ROWS, POPULATION, STEPS, BATCH = 512, 8192, 240, 512
DRIFT = 5
"""Ids by which the popular ones move on in a step."""
pytestmark = pytest.mark.multiproc


class Small(nn.Module):
    """Logits from one table."""

    def __init__(self, schema):
        super().__init__()
        self.tables = Tables(schema, ["user_id"], sets={"": TableSet()})
        self.head = nn.Linear(8, 1)

    def forward(self, sparse):
        rows = self.tables(sparse).pooled[self.tables.key("user_id", table_set="")]
        return self.head(rows)[:, 0]


def world(seed):
    """Yield ids by a power law, half of which drift away, with clicks by an effect of each."""
    rng = np.random.default_rng(seed)
    effects = rng.normal(0, 2, POPULATION + DRIFT * STEPS)
    for step in range(STEPS):
        ranks = ((rng.random(BATCH) * (POPULATION**-0.2 - 1) + 1) ** -5).astype(int) - 1
        ids = np.where(ranks % 2, ranks, ranks + DRIFT * step)
        clicks = rng.random(BATCH) < 1 / (1 + np.exp(-effects[ids]))
        yield ids, torch.from_numpy(clicks.astype(np.float32))


def body(ranks, folders):
    """Return the AUC of scores made before training, over the second half of the steps."""
    found = {}
    for kind, folder in folders.items():
        torch.manual_seed(1)
        optim = OptimConfig(sparse_lr=0.3, dense_lr=0.02, weight_decay=0)
        config = ShardConfig(optim=optim, ids=IdsConfig(ways=16, half_life_steps=20))
        sharded = shard_model(Small(load_schema(folder)), config=config, ranks=ranks, seed=1)
        scores, labels = [], []
        for step, (ids, clicks) in enumerate(world(7)):
            own = (
                mix_ids(ids, table="user")
                if kind == "managed"
                else hash_ids(ids, table="user", rows=ROWS)
            )
            lengths = torch.ones(len(ids), dtype=torch.int32)
            sparse = KeyedJaggedTensor(["user_id"], torch.from_numpy(own), lengths=lengths)
            if step >= STEPS // 2:
                sharded.model.eval()
                with torch.no_grad():
                    scores.append(sharded.model(sparse).numpy())
                labels.append(clicks.numpy())
                sharded.model.train()
            logits = sharded.model(sparse)
            sharded.step(nn.functional.binary_cross_entropy_with_logits(logits, clicks))
        found[kind] = roc_auc_score(np.concatenate(labels), np.concatenate(scores))
    return found


def test_rows_of_their_own_are_worth_more_than_shared_ones(tmp_path):
    folders = {}
    for kind in ("hash", "managed"):
        words = f"user: {{rows: {ROWS}, dim: 8, ids: {kind}}}"
        schema = SCHEMA.replace("user: {rows: 64, dim: 8}", words)
        folders[kind] = write_tiny(tmp_path / kind, days=1, rows=20, schema=schema)
    (found,) = run_ranks(body, 1, folders)
    assert found["managed"] > found["hash"] + 0.03, found
