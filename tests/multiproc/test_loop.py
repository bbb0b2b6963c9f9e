"""The training loop on several ranks: one gradient, one end, one sentence."""

import os
import signal

import numpy as np
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import StopSignal
from lfm4ads.model.lfm import LfmConfig
from lfm4ads.train import loop
from lfm4ads.train.loop import train_pass
from lfm4ads.train.losses import masked_bce
from tests.batches import read_batches
from tests.gloo import run_ranks
from tests.multiproc.jobs import BATCH_SIZE, build
from tests.multiproc.weights import join_weights, largest_difference, local_weights
from tests.worlds import write_tiny

pytestmark = pytest.mark.multiproc
ROWS, STEPS = 370, 6
DROPOUT = LfmConfig(rep_dim=8, tower_hidden=(16,), cross_layers=1, mlp=(8,), dropout=0.4)


def run_pass(sharded, batches, *, loss=None, **options):
    def plain(batch):
        return masked_bce(sharded.model(batch).logits, batch)

    return train_pass(sharded, batches, loss=loss or plain, batch_size=BATCH_SIZE, **options)


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


def exploding(sharded, *, at, here):
    """A loss that is not finite at one step of one rank."""
    seen = []

    def loss(batch):
        seen.append(batch)
        factor = float("inf") if here and len(seen) == at else 1.0
        return masked_bce(sharded.model(batch).logits, batch) * factor

    return loss, seen


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
    found["pass"] = vars(run_pass(sharded, batches, after_step=lambda: calls.append(1)))
    found["calls"], found["training"] = len(calls), sharded.model.training
    found["weights"] = local_weights(sharded)

    found["straight"] = resume(ranks, folder, batches, first=STEPS)
    found["resumed"] = resume(ranks, folder, batches, first=2)
    found["other seed"] = resume(ranks, folder, batches, first=STEPS, seed=6)

    steps = []

    def interrupt():
        steps.append(1)
        if last and len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = run_pass(sharded, batches, stop=StopSignal(), after_step=interrupt)
    found["stopped"] = (stopped.stopped, stopped.steps, len(steps))

    reader = broken(batches, after=3) if last else batches
    found["torn"] = sentence_of(sharded, reader)

    loss, _ = exploding(sharded, at=4, here=last)
    found["at end"] = sentence_of(sharded, batches, loss=loss)
    loop._CHECK_STEPS = 2
    sharded = build(folder, ranks)
    loss, seen = exploding(sharded, at=3, here=last)
    found["early"], found["early steps"] = sentence_of(sharded, batches, loss=loss), len(seen)
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
def test_a_loss_that_is_not_finite_is_one_sentence_on_every_rank(jobs, world):
    for name, step in (("at end", 6), ("early", 4)):
        sentences = {result[name] for result in jobs[world]}
        assert len(sentences) == 1
        sentence, everywhere = sentences.pop()
        assert everywhere
        assert sentence.startswith(
            f"the loss stopped being finite within step {step} of this pass;"
        )
        assert sentence.count("the loss stopped") == 1
    assert {result["early steps"] for result in jobs[world]} == {4}
