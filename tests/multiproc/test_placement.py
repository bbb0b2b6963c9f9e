"""Placement and number of ranks change where rows live, not what they learn."""

import numpy as np
import pytest
import torch

from lfm4ads.data.schema import load_schema
from lfm4ads.model.lfm import Lfm
from lfm4ads.train.losses import masked_bce
from tests.batches import read_batches
from tests.gloo import run_ranks
from tests.multiproc.jobs import BATCH_SIZE, KINDS, MODEL, PLACES, SEED, build, optim, train
from tests.multiproc.weights import join_weights, largest_difference, local_weights, plain_weights
from tests.plain import PlainTrainer, unshard
from tests.worlds import write_tiny

pytestmark = pytest.mark.multiproc
STEPS = 10
WORLDS = (1, 2, 4)


def body(ranks, folder):
    """Train under every plan and sparse optimiser; return weights before, after 1 and 10 steps."""
    batches = read_batches(folder, ranks=ranks)
    found = {}
    for place in PLACES:
        for kind in KINDS:
            sharded = build(folder, ranks, place=place, kind=kind)
            first = local_weights(sharded)
            losses = train(sharded, batches[:1])
            one = local_weights(sharded)
            losses += train(sharded, batches[1:])
            found[place, kind] = (first, one, local_weights(sharded), losses)
    return found


def plain_steps(folder, *, kind, column_shards):
    """Train on one process with plain torch; return what ``body`` does."""
    batches = read_batches(folder)
    assert len(batches) == STEPS
    assert not batches[-1].valid.all(), "the last batch must be padded"
    torch.manual_seed(SEED)
    model = unshard(Lfm(load_schema(folder), MODEL), seed=SEED)
    trainer = PlainTrainer(model, optim=optim(kind), column_shards=column_shards)
    weights, losses = [plain_weights(model)], []
    for batch in batches:
        loss = masked_bce(model(batch).logits, batch) / BATCH_SIZE
        trainer.step(loss)
        losses.append(loss.item())
        weights.append(plain_weights(model))
    assert trainer.clipped_steps > 0, "the clip must bite in some step, or nothing tests it"
    return weights[0], weights[1], weights[-1], losses


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("placement") / "data", days=1, rows=620)


@pytest.fixture(scope="module")
def plain(folder):
    """Reference runs; row-wise AdaGrad has an accumulator per row and column shard (dim 8: two)."""
    torch.set_num_threads(1)
    runs = {}
    for kind in KINDS:
        for shards in ({}, {"item": 2}, {"user": 2, "item": 2, "tag": 2}):
            if not shards or kind == "rowwise_adagrad":
                runs[kind, len(shards)] = plain_steps(folder, kind=kind, column_shards=shards)
    return runs


@pytest.fixture(scope="module", params=WORLDS)
def job(request, folder):
    """(number of ranks, every rank's result of ``body``)."""
    return request.param, run_ranks(body, request.param, folder)


def wanted(plain, *, place, kind, world):
    cut = {"column_wise": 3, "mixed": 1}.get(place, 0)
    return plain[kind, cut if world > 1 and kind == "rowwise_adagrad" else 0]


RUNS = [(place, kind) for place in PLACES for kind in KINDS]


def test_first_values_are_the_same_on_every_plan(job, plain):
    _, results = job
    for run in RUNS:
        first = join_weights([result[run][0] for result in results])
        assert largest_difference(first, plain["sgd", 0][0])[0] == 0, run


@pytest.mark.parametrize(("place", "kind"), RUNS)
def test_every_table_and_dense_parameter_moves_in_one_step(job, place, kind):
    _, results = job
    moved = set()
    for result in results:
        first, one, *_ = result[place, kind]
        moved |= {key for key in first if not np.array_equal(first[key], one[key])}
        assert first.keys() == one.keys()
    assert {key for result in results for key in result[place, kind][0]} == moved
    tables = {name for name, *_ in moved if "embedding_bags" in name}
    assert tables == {f"tables.embedding_bags.{name}.weight" for name in ("user", "item", "tag")}
    assert len(moved) > 20


@pytest.mark.parametrize(("place", "kind"), RUNS)
def test_one_and_ten_steps_are_those_of_plain_torch(job, plain, place, kind):
    world, results = job
    first, *steps, losses = wanted(plain, place=place, kind=kind, world=world)
    for position, weights in enumerate(steps, 1):
        found = join_weights([result[place, kind][position] for result in results])
        distance, where = largest_difference(found, weights)
        assert distance < 1e-5, f"{distance} at {where}"
    # Far above the tolerance, so that a table which stands still would show.
    tables = [name for name in first if "embedding_bags" in name]
    assert all(np.abs(steps[-1][name] - first[name]).max() > 1e-3 for name in tables)
    found = np.sum([result[place, kind][3] for result in results], axis=0)
    np.testing.assert_allclose(found, losses, rtol=1e-5)


def test_column_shards_keep_accumulators_of_their_own(plain):
    """Where plans differ by definition; the tests above must be able to tell them apart."""
    whole, shards = plain["rowwise_adagrad", 0][2], plain["rowwise_adagrad", 3][2]
    assert largest_difference(whole, shards)[0] > 1e-3
