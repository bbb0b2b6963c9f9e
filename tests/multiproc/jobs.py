"""Small sharded models inside a job, and their weights put together again."""

from functools import cache

import numpy as np
import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor

from lfm4ads.data.schema import load_schema
from lfm4ads.model.lfm import Lfm, LfmConfig
from lfm4ads.shard.optim import OptimConfig
from lfm4ads.shard.place import PlaceConfig
from lfm4ads.shard.sharded import ShardConfig, Sharded, shard_model
from lfm4ads.train.losses import masked_bce

PLACES = {
    "table_wise": PlaceConfig(default="table_wise"),
    "row_wise": PlaceConfig(default="row_wise"),
    "column_wise": PlaceConfig(default="column_wise"),
    "data_parallel": PlaceConfig(default="data_parallel"),
    "mixed": PlaceConfig(
        default="table_wise",
        tables={"user": "row_wise", "item": "column_wise", "tag": "data_parallel"},
    ),
}
KINDS = ("rowwise_adagrad", "adagrad", "sgd")
MODEL = LfmConfig(rep_dim=8, tower_hidden=(16,), cross_layers=2, mlp=(16, 8))
BATCH_SIZE = 64
SEED = 3

Weights = dict[str, np.ndarray]
Local = dict[tuple[str, int, int], np.ndarray]


def optim(kind: str) -> OptimConfig:
    """Rates at which ten steps are felt, and a clip that bites."""
    rate = 2.0 if kind == "sgd" else 0.05
    return OptimConfig(sparse_kind=kind, dense_lr=3e-3, sparse_lr=rate, clip_norm=0.1)


@cache
def schema_of(folder):
    """Read a schema once: it costs more than building a model."""
    return load_schema(folder)


def build(
    folder, ranks, *, place="table_wise", kind="rowwise_adagrad", seed=SEED, model=MODEL
) -> Sharded:
    """Shard a foundation model of the tiny schema."""
    torch.manual_seed(seed)
    config = ShardConfig(place=PLACES[place], optim=optim(kind))
    return shard_model(Lfm(schema_of(folder), model), config=config, ranks=ranks, seed=seed)


def train(sharded: Sharded, batches) -> list[float]:
    """Step once per batch; return this rank's losses, whose sum over ranks is that of the rows."""
    losses = []
    for batch in batches:
        loss = masked_bce(sharded.model(batch).logits, batch) / BATCH_SIZE
        sharded.step(loss * sharded.ranks.world)
        losses.append(loss.item())
    return losses


def local_weights(sharded: Sharded) -> Local:
    """Return a copy of this rank's weights by name, first row and first column."""
    found: Local = {}
    for name, value in sharded.model.state_dict().items():
        if isinstance(value, ShardedTensor):
            for shard in value.local_shards():
                row, column = shard.metadata.shard_offsets
                found[name, row, column] = shard.tensor.detach().numpy().copy()
        else:
            found[name, 0, 0] = value.detach().numpy().copy()
    return found


def join_weights(of_ranks: list[Local]) -> Weights:
    """Return whole tensors; what several ranks hold must be equal to the last bit."""
    pieces: dict[str, dict[tuple[int, int], np.ndarray]] = {}
    for local in of_ranks:
        for (name, row, column), value in local.items():
            former = pieces.setdefault(name, {}).setdefault((row, column), value)
            np.testing.assert_array_equal(former, value, err_msg=f"replicas of {name} differ")
    return {name: _join(parts) for name, parts in pieces.items()}


def _join(parts: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
    if len(parts) == 1:
        return next(iter(parts.values()))
    shape = [max(at[axis] + part.shape[axis] for at, part in parts.items()) for axis in (0, 1)]
    whole = np.full(shape, np.nan, dtype=np.float32)
    for (row, column), part in parts.items():
        whole[row : row + part.shape[0], column : column + part.shape[1]] = part
    assert not np.isnan(whole).any()
    return whole


def plain_weights(model) -> Weights:
    """Return the weights of an unsharded model."""
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}


def largest_difference(one: Weights, other: Weights) -> tuple[float, str]:
    """Return how far two models are apart, and where."""
    assert one.keys() == other.keys()
    return max((float(np.abs(one[name] - other[name]).max()), name) for name in one)
