"""Learning rates that move reach fused tables, replicated ones and dense groups."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.model.lfm import Lfm
from lfm4ads.shard.optim import OptimConfig
from lfm4ads.shard.schedule import ScheduleConfig
from lfm4ads.shard.sharded import ShardConfig, shard_model
from lfm4ads.train.loop import train_pass
from lfm4ads.train.losses import masked_bce
from tests.batches import read_batches
from tests.gloo import run_ranks
from tests.multiproc.jobs import BATCH_SIZE, INTEREST, PLACES, SEED, schema_of
from tests.multiproc.weights import join_weights, largest_difference, local_weights
from tests.worlds import write_tiny

pytestmark = pytest.mark.multiproc
WARM = ScheduleConfig(warmup_steps=4)
DECAY = ScheduleConfig(kind="linear", decay_steps=4, floor_ratio=0.0)
# Plain gradient descent for tables, no decay of weights: a step is the rate times what it sees.
BASE = OptimConfig(dense_lr=1e-3, sparse_lr=0.5, sparse_kind="sgd", weight_decay=0.0, clip_norm=0.0)


def build(ranks, folder, optim):
    torch.manual_seed(SEED)
    return shard_model(
        Lfm(schema_of(folder), INTEREST),
        config=ShardConfig(place=PLACES["mixed"], optim=optim),
        ranks=ranks,
        seed=SEED,
        lr_scales={"mix.": 0.1},
    )


def run(ranks, folder, optim, *, batches, first=0):
    """Return the weights before and after a pass that starts at step ``first`` of its run."""
    sharded = build(ranks, folder, optim)
    before = local_weights(sharded)
    train_pass(
        sharded,
        batches,
        loss=lambda batch: masked_bce(sharded.model(batch).logits, batch),
        explain=lambda _: "nothing",
        batch_size=BATCH_SIZE,
        first_total_step=first,
    )
    return before, local_weights(sharded)


def body(ranks, folder):
    batches = read_batches(folder, ranks=ranks)
    warm = replace(BASE, dense_schedule=WARM, sparse_schedule=WARM)
    quarter = replace(BASE, dense_lr=BASE.dense_lr / 4, sparse_lr=BASE.sparse_lr / 4)
    decay = replace(BASE, dense_schedule=DECAY, sparse_schedule=DECAY)
    one = batches[:1]
    found = {
        "warm": run(ranks, folder, warm, batches=one),
        "warmed": run(ranks, folder, warm, batches=one, first=3),
        "quarter": run(ranks, folder, quarter, batches=one),
        "whole": run(ranks, folder, BASE, batches=one),
        "decayed": run(ranks, folder, decay, batches=one, first=4),
        "sparse alone": run(
            ranks, folder, replace(BASE, sparse_schedule=DECAY), batches=one, first=9
        ),
        "dense alone": run(
            ranks, folder, replace(BASE, dense_schedule=DECAY), batches=one, first=9
        ),
    }
    try:
        build(ranks, folder, replace(BASE, sparse_clip=0.1))
    except UserError as error:
        found["refusal"] = (str(error), error.everywhere)
    return found


@pytest.fixture(scope="module", params=[1, 2])
def job(request, tmp_path_factory):
    folder = write_tiny(tmp_path_factory.mktemp("rates") / "data", days=1, rows=256)
    return run_ranks(body, request.param, folder)


def weights_of(job, name):
    return [join_weights([result[name][position] for result in job]) for position in (0, 1)]


def moved(job, name):
    """Return the names of the tensors that a run changed."""
    before, after = weights_of(job, name)
    return {key for key in before if not np.array_equal(before[key], after[key])}


def test_the_first_step_of_a_warm_up_is_one_at_that_share_of_the_rates(job):
    warm, quarter = (weights_of(job, name)[1] for name in ("warm", "quarter"))
    assert largest_difference(warm, quarter)[0] < 1e-7
    whole = weights_of(job, "whole")[1]
    far = [key for key in whole if np.abs(whole[key] - warm[key]).max() > 0]
    assert moved(job, "whole") == set(far), "every optimiser must have felt it"
    tables = {"main/user", "main/item", "main/tag"}
    assert {key.split(".")[-2] for key in far if key.startswith("tables.")} == tables


def test_after_the_warm_up_the_rates_are_those_without_one_to_the_last_bit(job):
    warmed, whole = (weights_of(job, name)[1] for name in ("warmed", "whole"))
    assert largest_difference(warmed, whole)[0] == 0


def test_a_rate_of_zero_moves_nothing(job):
    assert moved(job, "decayed") == set()


def test_dense_and_sparse_schedules_are_apart(job):
    tables = {key for key in moved(job, "whole") if key.startswith("tables.")}
    assert len(tables) == 3
    assert moved(job, "sparse alone") == moved(job, "whole") - tables
    assert moved(job, "dense alone") == tables


def test_a_clip_of_lookups_is_refused_for_a_table_that_cannot_have_it(job):
    for result in job:
        sentence, everywhere = result["refusal"]
        assert sentence == (
            "shard.optim.sparse_clip is 0.1, but table main/tag is placed data_parallel, where"
            " lookups cannot be clipped; place it table_wise"
        )
        assert everywhere
