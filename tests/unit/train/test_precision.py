"""Training with half-precise products learns the same, and everything that stays is float32."""

import pytest
import torch

from lfm4ads.core.config import parse_config
from lfm4ads.core.seed import seed_torch
from lfm4ads.data.index import open_dataset
from lfm4ads.data.reader import Reader, ReaderConfig
from lfm4ads.model.config import LfmConfig
from lfm4ads.model.lfm import Lfm
from lfm4ads.shard.sharded import ShardConfig, shard_model
from lfm4ads.stages.pretrain import Config
from lfm4ads.train.loop import train_pass
from lfm4ads.train.objective import LossConfig, Objective
from tests.gloo import run_ranks
from tests.worlds import write_tiny

DAY, ROWS, BATCH = 20260101, 203, 32


def learned(ranks, folder, precision, rank_loss):
    """Train a pass; return the loss, types seen in training and scoring, logits and weights."""
    dataset = open_dataset(folder, ranks)
    seed_torch(0)
    model = Lfm(dataset.schema, LfmConfig())
    seen = []
    layer = next(m for m in model.mix.modules() if isinstance(m, torch.nn.Linear))
    layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    config = ShardConfig(precision=precision)
    sharded = shard_model(model, config=config, ranks=ranks, seed=0)
    config = ReaderConfig(batch_size=BATCH, lanes=1)
    reader = Reader(dataset, config=config, ranks=ranks, seed=0)
    objective = Objective(LossConfig(rank=rank_loss), schema=dataset.schema, ranks=ranks)

    def loss(batch):
        return objective(sharded.model(batch).logits, batch, step=0)

    done = train_pass(
        sharded, reader.day(DAY), loss=loss, batch_size=BATCH, explain=lambda _: "never"
    )
    trained = set(seen)
    seen.clear()
    sharded.model.eval()
    with torch.no_grad():
        logits = sharded.model(next(iter(reader.day(DAY)))).logits
    kinds = {one.dtype for one in sharded.model.state_dict().values() if torch.is_tensor(one)}
    return done.loss, trained, set(seen), logits, kinds


def both(ranks, folder, rank_loss):
    return [learned(ranks, folder, one, rank_loss) for one in ("float32", "bfloat16")]


@pytest.mark.parametrize("rank_loss", ["none", "pair"])
def test_half_precise_products_learn_the_same(tmp_path, rank_loss):
    folder = write_tiny(tmp_path, rows=ROWS)
    full, half = run_ranks(both, 1, folder, rank_loss)[0]
    assert (full[1], half[1]) == ({torch.float32}, {torch.bfloat16})
    assert full[2] == half[2] == {torch.float32}, "scores are not half precise"
    assert torch.bfloat16 not in half[4]
    assert half[0] == pytest.approx(full[0], rel=2e-3)
    assert half[0] != full[0]
    torch.testing.assert_close(half[3], full[3], rtol=0.05, atol=0.02)


def test_a_head_that_adds_up_products_wants_them_whole():
    paths = "data: a\noutput: b\ndays: {first: 1, base_last: 1, last: 1}\n"
    words = "model: {heads: {kind: sngp}}\nshard: {precision: bfloat16}"
    with pytest.raises(ValueError, match=r"leave shard\.precision"):
        parse_config(Config, paths + words)
