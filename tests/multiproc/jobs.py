"""Small sharded models inside a job."""

from functools import cache

import torch

from lfm4ads.data.schema import load_schema
from lfm4ads.model.config import LfmConfig
from lfm4ads.model.lfm import Lfm
from lfm4ads.nn.branch import MixConfig
from lfm4ads.nn.experts import ExpertConfig
from lfm4ads.nn.interactions.config import InteractionConfig
from lfm4ads.nn.pairs import InterestConfig, PairConfig
from lfm4ads.nn.tower import TowerConfig
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
        tables={
            "main/user": "row_wise",
            "main/item": "column_wise",
            "main/tag": "data_parallel",
        },
    ),
}
KINDS = ("rowwise_adagrad", "adagrad", "sgd")


def model_of(*, layers: int = 2, hidden: tuple[int, ...] = (8,), **rest) -> LfmConfig:
    """Return a small model of one expert."""
    expert = ExpertConfig(interaction=InteractionConfig(layers=layers), hidden=(16,))
    return LfmConfig(
        tower=TowerConfig(rep_dim=8, hidden=(16,)),
        mix=MixConfig(experts={"cross": expert}, hidden=hidden),
        **rest,
    )


MODEL = model_of()
# A history against its target: their table is read id by id. Each rank would draw its own rows to
# train without it.
INTEREST = model_of(
    pairs=PairConfig(
        interests={"views": InterestConfig(behaviours=("recent",), targets=("item_id",))},
        dropout=0.0,
    )
)
BATCH_SIZE = 64
SEED = 3


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
