"""Placement and number of ranks change where rows live, not what they learn."""

import numpy as np
import pytest
import torch

from lfm4ads.data.schema import load_schema
from lfm4ads.model.lfm import Lfm
from lfm4ads.train.losses import masked_bce
from tests.batches import read_batches
from tests.gloo import run_ranks
from tests.multiproc.jobs import (
    BATCH_SIZE,
    INTEREST,
    KINDS,
    MODEL,
    PLACES,
    SEED,
    build,
    optim,
    train,
)
from tests.multiproc.weights import join_weights, largest_difference, local_weights, plain_weights
from tests.plain import PlainTrainer, unshard
from tests.worlds import write_tiny

pytestmark = pytest.mark.multiproc
STEPS = 10
WORLDS = (1, 2, 4)
MODELS = {"plain": MODEL, "interest": INTEREST}
RUNS = [(place, kind, "plain") for place in PLACES for kind in KINDS]
RUNS += [("mixed", kind, "interest") for kind in KINDS]
TABLES = {
    "plain": {f"bags.embedding_bags.main/{name}" for name in ("user", "item", "tag")},
    "interest": {
        "bags.embedding_bags.main/user",
        "bags.embedding_bags.main/tag",
        "rows.dim_8.embeddings.main/item",
    },
}


def body(ranks, folder):
    """Train under every plan and sparse optimiser; return weights before, after 1 and 10 steps."""
    batches = read_batches(folder, ranks=ranks)
    found = {}
    for place, kind, name in RUNS:
        sharded = build(folder, ranks, place=place, kind=kind, model=MODELS[name])
        first = local_weights(sharded)
        losses = train(sharded, batches[:1])
        one = local_weights(sharded)
        losses += train(sharded, batches[1:])
        found[place, kind, name] = (first, one, local_weights(sharded), losses)
    return found


def plain_steps(folder, *, kind, name, column_shards):
    """Train on one process with plain torch; return what ``body`` does."""
    batches = read_batches(folder)
    assert len(batches) == STEPS
    assert not batches[-1].valid.all(), "the last batch must be padded"
    torch.manual_seed(SEED)
    model = unshard(Lfm(load_schema(folder), MODELS[name]), seed=SEED)
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
    cuts = [(), ("item",), ("user", "item", "tag")]
    for kind in KINDS:
        for name in MODELS:
            for cut in cuts if kind == "rowwise_adagrad" else cuts[:1]:
                shards = {f"main/{table}": 2 for table in cut}
                runs[kind, name, len(cut)] = plain_steps(
                    folder, kind=kind, name=name, column_shards=shards
                )
    return runs


@pytest.fixture(scope="module", params=WORLDS)
def job(request, folder):
    """(number of ranks, every rank's result of ``body``)."""
    return request.param, run_ranks(body, request.param, folder)


def wanted(plain, *, place, kind, name, world):
    cut = {"column_wise": 3, "mixed": 1}.get(place, 0)
    return plain[kind, name, cut if world > 1 and kind == "rowwise_adagrad" else 0]


def test_first_values_are_the_same_on_every_plan(job, plain):
    _, results = job
    for run in RUNS:
        first = join_weights([result[run][0] for result in results])
        assert largest_difference(first, plain["sgd", run[2], 0][0])[0] == 0, run


@pytest.mark.parametrize(("place", "kind", "name"), RUNS)
def test_every_table_and_dense_parameter_moves_in_one_step(job, place, kind, name):
    _, results = job
    moved = set()
    for result in results:
        first, one, *_ = result[place, kind, name]
        moved |= {key for key in first if not np.array_equal(first[key], one[key])}
        assert first.keys() == one.keys()
    assert {key for result in results for key in result[place, kind, name][0]} == moved
    tables = {key for key, *_ in moved if key.startswith("tables.")}
    assert tables == {f"tables.{table}.weight" for table in TABLES[name]}
    assert len(moved) > 20


@pytest.mark.parametrize(("place", "kind", "name"), RUNS)
def test_one_and_ten_steps_are_those_of_plain_torch(job, plain, place, kind, name):
    world, results = job
    first, *steps, losses = wanted(plain, place=place, kind=kind, name=name, world=world)
    for position, weights in enumerate(steps, 1):
        found = join_weights([result[place, kind, name][position] for result in results])
        distance, where = largest_difference(found, weights)
        assert distance < 1e-5, f"{distance} at {where}"
    # Far above the tolerance, so that a table which stands still would show.
    tables = [key for key in first if key.startswith("tables.")]
    assert len(tables) == 3
    assert all(np.abs(steps[-1][key] - first[key]).max() > 5e-4 for key in tables)
    found = np.sum([result[place, kind, name][3] for result in results], axis=0)
    np.testing.assert_allclose(found, losses, rtol=1e-5)


def test_column_shards_keep_accumulators_of_their_own(plain):
    """Where plans differ by definition; the tests above must be able to tell them apart."""
    whole, shards = (plain["rowwise_adagrad", "plain", cut][2] for cut in (0, 3))
    assert largest_difference(whole, shards)[0] > 1e-3
