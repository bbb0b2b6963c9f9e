"""The training loop on several ranks: one gradient, one end, one sentence."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.core.signals import StopSignal
from lfm4ads.train.diagnose import explain_not_finite
from lfm4ads.train.loop import train_pass
from lfm4ads.train.losses import masked_bce
from tests.batches import read_batches
from tests.gloo import run_ranks
from tests.multiproc.jobs import BATCH_SIZE, build, model_of, schema_of
from tests.multiproc.weights import join_weights, largest_difference, local_weights
from tests.worlds import write_tiny

pytestmark = pytest.mark.multiproc
ROWS, STEPS = 370, 6
DROPOUT = model_of(layers=1, dropout=0.4)


def run_pass(sharded, batches, *, loss=None, schema=None, **options):
    def plain(batch):
        return masked_bce(sharded.model(batch).logits, batch)

    return train_pass(
        sharded,
        batches,
        loss=loss or plain,
        batch_size=BATCH_SIZE,
        explain=lambda batch: explain_not_finite(sharded, batch, schema) if schema else "unknown",
        **options,
    )


def sentence_of(sharded, batches, **options):
    """Return what the pass raises, and whether all ranks are said to raise it."""
    try:
        run_pass(sharded, batches, **options)
    except UserError as error:
        return str(error), error.everywhere
    return None


def broken(batches, *, after):
    """A reader that fails."""
    yield from batches[:after]
    raise UserError("part-00003 is torn; write it again")


def row_seen_by(batches, everyone, *, feature):
    """Return a table row that this rank looks up in a step and no other rank, nor itself twice."""
    values, counts = everyone.sparse[feature].values().unique(return_counts=True)
    alone = values[counts == 1]
    return int(next(row for row in batches.sparse[feature].values() if row in alone))


def spoil(sharded, name, *, row):
    """Put NaN into one row of a tensor, wherever that row lives; return whether it is here."""
    value = sharded.model.state_dict()[name]
    with torch.no_grad():
        if not hasattr(value, "local_shards"):
            value[row] = float("nan")
            return True
        for shard in value.local_shards():
            first = shard.metadata.shard_offsets[0]
            if first <= row < first + len(shard.tensor):
                shard.tensor[row - first] = float("nan")
                return True
    return False


def faults(ranks, folder, batches):
    """Spoil one thing after two steps, seen by one rank in the third; return what the pass did."""
    schema, found = schema_of(folder), {}
    seer = ranks.rank == 0
    everyone = read_batches(folder)[2]
    row = int(
        ranks.sum(np.array([row_seen_by(batches[2], everyone, feature="user_id")] * seer or [0]))[0]
    )
    price = batches[2].numbers.clone()
    price[0, schema.select(kind="number").index("price")] = 1e30
    extreme = [*batches[:2], replace(batches[2], numbers=price), *batches[3:]]
    for name in ("table", "dense", "number"):
        sharded = build(folder, ranks)
        saved, here = [], []

        def after_step(fault, name=name, sharded=sharded, saved=saved, here=here):
            ranks.agree(fault.error)  # as before saving
            saved.append(1)
            if len(saved) == 2 and name == "table":
                here.append(spoil(sharded, "tables.bags.embedding_bags.main/user.weight", row=row))
            if len(saved) == 2 and name == "dense" and seer:
                spoil(sharded, "mix.branches.ads.experts.cross.layers.0.bias", row=3)

        given = extreme if name == "number" and seer else batches
        sentence = sentence_of(
            sharded, given, schema=schema, after_step=after_step, first_total_step=40
        )
        found[name] = {"said": sentence, "saved": len(saved), "here": any(here)}
    return found


def at_end(ranks, folder, batches, *, here):
    """Return what a pass says whose very last loss is infinite on one rank."""
    sharded, seen = build(folder, ranks), []

    def loss(batch):
        seen.append(batch)
        factor = float("inf") if here and len(seen) == STEPS else 1.0
        return masked_bce(sharded.model(batch).logits, batch) * factor

    return sentence_of(sharded, batches, loss=loss, after_step=lambda _: None)


def resume(ranks, folder, batches, *, first, seed=5):
    """Train with dropout, ``first`` steps and the rest in a second pass."""
    sharded = build(folder, ranks, model=DROPOUT)
    run_pass(sharded, batches[:first], seed=seed)
    run_pass(sharded, batches[first:], seed=seed, first_step=first)
    return local_weights(sharded)


def body(ranks, folder):
    batches = read_batches(folder, ranks=ranks)
    last = ranks.rank == ranks.world - 1
    sharded = build(folder, ranks)
    found = {"losses": [], "valid": [int(batch.valid.sum()) for batch in batches]}
    for batch in batches:
        found["losses"].append(run_pass(sharded, [batch]).loss)
    found["by step"] = local_weights(sharded)

    sharded = build(folder, ranks)
    sharded.model.eval()  # the loop must set it to training itself
    calls = []
    found["pass"] = vars(run_pass(sharded, batches, after_step=lambda _: calls.append(1)))
    found["calls"], found["training"] = len(calls), sharded.model.training
    found["weights"] = local_weights(sharded)

    found["straight"] = resume(ranks, folder, batches, first=STEPS)
    found["resumed"] = resume(ranks, folder, batches, first=2)
    found["other seed"] = resume(ranks, folder, batches, first=STEPS, seed=6)

    steps = []

    def interrupt(_):
        steps.append(1)
        if last and len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    stop = StopSignal()
    with stop.listening():
        stopped = run_pass(sharded, batches, stop=stop, after_step=interrupt)
    found["stopped"] = (stopped.stopped, stopped.steps, len(steps))

    reader = broken(batches, after=3) if last else batches
    found["torn"] = sentence_of(sharded, reader)

    found["at end"] = at_end(ranks, folder, batches, here=last)
    found["faults"] = faults(ranks, folder, batches)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("loop") / "data", days=1, rows=ROWS)


@pytest.fixture(scope="module")
def jobs(folder):
    """Every rank's result by number of ranks."""
    return {world: run_ranks(body, world, folder) for world in (1, 2, 4)}


WORLDS = pytest.mark.parametrize("world", [1, 2, 4])


@pytest.mark.parametrize("world", [2, 4])
def test_losses_and_weights_do_not_depend_on_the_number_of_ranks(jobs, world):
    alone, several = jobs[1], jobs[world]
    assert len(alone[0]["losses"]) == STEPS
    assert alone[0]["valid"][-1] < BATCH_SIZE, "the last step must be padded"
    assert sum(sum(result["valid"]) for result in several) == ROWS
    for result in several:
        np.testing.assert_allclose(result["losses"], alone[0]["losses"], rtol=1e-5)
    for name in ("weights", "by step"):
        one, other = (join_weights([result[name] for result in job]) for job in (alone, several))
        distance, where = largest_difference(one, other)
        assert distance < 1e-5, where


@WORLDS
def test_a_pass_is_its_steps_one_by_one(jobs, world):
    for result in jobs[world]:
        done = result["pass"]
        assert (done["steps"], done["rows"], done["stopped"]) == (STEPS, ROWS, False)
        assert result["calls"] == STEPS
        assert result["training"]
        weights = [
            join_weights([one[name] for one in jobs[world]]) for name in ("weights", "by step")
        ]
        assert largest_difference(*weights)[0] == 0
        sizes = [64] * 5 + [ROWS - 5 * 64]
        mean = np.average(result["losses"], weights=sizes)
        assert done["loss"] == pytest.approx(mean, rel=1e-6)


@WORLDS
def test_a_pass_resumed_in_its_middle_drops_the_same_units(jobs, world):
    for result in jobs[world]:
        for key, value in result["straight"].items():
            np.testing.assert_array_equal(value, result["resumed"][key], err_msg=str(key))
    joined = [
        join_weights([one[name] for one in jobs[world]]) for name in ("straight", "other seed")
    ]
    assert largest_difference(*joined)[0] > 1e-3


@WORLDS
def test_a_signal_to_one_rank_ends_all_after_the_same_step(jobs, world):
    assert [result["stopped"] for result in jobs[world]] == [(True, 2, 2)] * world


@WORLDS
def test_a_readers_error_on_one_rank_is_everyones(jobs, world):
    wanted = ("part-00003 is torn; write it again", True)
    assert [result["torn"] for result in jobs[world]] == [wanted] * world


@WORLDS
def test_a_loss_that_is_not_finite_in_the_last_step_is_one_sentence_on_every_rank(jobs, world):
    wanted = (f"the loss is not finite at step {STEPS}, day 20260101: unknown", True)
    assert [result["at end"] for result in jobs[world]] == [wanted] * world


FAULTS = {
    "table": (
        "feature user_id read rows of table main/user that are not finite; lower"
        " shard.optim.sparse_lr"
    ),
    "dense": (
        "dense parameter mix.branches.ads.experts.cross.layers.0.bias is not finite; lower"
        " shard.optim.dense_lr or shard.optim.clip_norm"
    ),
    "number": (
        "tables and parameters are finite, the largest input is 1e+30 in number feature price;"
        " look for extreme values, or lower shard.optim.dense_lr or sparse_lr"
    ),
}


@WORLDS
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_one_rank_sees_is_named_on_all_and_nothing_is_saved_after_it(
    jobs, world, fault
):
    found = [result["faults"][fault] for result in jobs[world]]
    wanted = f"the loss is not finite at step 43, day 20260101: {FAULTS[fault]}"
    assert [one["said"] for one in found] == [(wanted, True)] * world
    assert [one["saved"] for one in found] == [2] * world
    if fault == "table" and world > 1:
        assert [one["here"] for one in found].index(True) > 0, "the seer must not hold the row"
