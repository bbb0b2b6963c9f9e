"""Overlapping the next batch's ids with a step changes no bit of what is learned."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from torchrec.distributed.train_pipeline.runtime_forwards import PipelinedForward

from lfm4ads.core.ranks import StopSignal
from lfm4ads.shard.pipeline import Lookups
from lfm4ads.shard.schedule import ScheduleConfig
from lfm4ads.train.losses import masked_bce
from tests.batches import read_batches
from tests.gloo import run_ranks
from tests.multiproc.jobs import INTEREST, build
from tests.multiproc.test_loop import broken, run_pass, sentence_of
from tests.multiproc.weights import local_weights
from tests.worlds import write_tiny

pytestmark = pytest.mark.multiproc
STEPS = 6
SAVE_AT = 3
SCHEDULE = ScheduleConfig(kind="linear", warmup_steps=2, decay_steps=3)
DROPPING = replace(INTEREST, dropout=0.3)


def made(ranks, folder, *, pipelined):
    """Every placement, a clip that bites, rates that move every step, dropout."""
    sharded = build(folder, ranks, place="mixed", model=DROPPING)
    sharded.pipelined = pipelined
    sharded.optim = replace(sharded.optim, dense_schedule=SCHEDULE, sparse_schedule=SCHEDULE)
    return sharded


def one_pass(ranks, folder, batches, *, pipelined):
    """Return losses, weights in the middle and at the end, and what the lookups were meanwhile."""
    sharded = made(ranks, folder, pipelined=pipelined)
    losses, middle, forwards = [], {}, []

    def loss(batch):
        value = masked_bce(sharded.model(batch).logits, batch)
        losses.append(value.item())
        return value

    def after_step(_):
        forwards.extend(lookups(sharded))
        if len(losses) == SAVE_AT:
            middle.update(local_weights(sharded))

    done = run_pass(sharded, batches, loss=loss, after_step=after_step, seed=5)
    return {
        "losses": losses,
        "middle": middle,
        "end": local_weights(sharded),
        "pass": vars(done),
        "pipelined": forwards,
        "pipelined after": lookups(sharded),
    }


def lookups(sharded):
    collections = Lookups(sharded.model.module).collections
    return [isinstance(one.forward, PipelinedForward) for one in collections]


def in_two(ranks, folder, batches):
    """Stop after two steps by a signal to the last rank, and go on in another pass."""
    sharded, steps, last = made(ranks, folder, pipelined=True), [], ranks.rank == ranks.world - 1

    def interrupt(_):
        steps.append(1)
        if last and len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    stop = StopSignal()
    with stop.listening():
        first = run_pass(sharded, batches, stop=stop, after_step=interrupt, seed=5)
    run_pass(sharded, batches[2:], first_step=2, first_total_step=2, seed=5)
    return {"stopped": (first.stopped, first.steps), "end": local_weights(sharded)}


def fault(ranks, folder, batches, *, pipelined, at):
    """Return what a pass says whose loss at one step is infinite on one rank, and its steps."""
    sharded, seen, steps = made(ranks, folder, pipelined=pipelined), [], []

    def loss(batch):
        seen.append(batch)
        factor = float("inf") if ranks.is_first and len(seen) == at else 1.0
        return masked_bce(sharded.model(batch).logits, batch) * factor

    said = sentence_of(sharded, batches, loss=loss, after_step=lambda _: steps.append(1))
    return said, len(steps), any(lookups(sharded))


def body(ranks, folder):
    batches = read_batches(folder, ranks=ranks)
    last = ranks.rank == ranks.world - 1
    found = {mode: one_pass(ranks, folder, batches, pipelined=mode) for mode in (False, True)}
    found["in two"] = in_two(ranks, folder, batches)
    found["faults"] = [
        fault(ranks, folder, batches, pipelined=mode, at=at) for at in (2, 5, 6) for mode in (0, 1)
    ]
    reader = broken(batches, after=3) if last else batches
    found["torn"] = sentence_of(made(ranks, folder, pipelined=True), reader)
    found["short"] = [
        [
            local_weights_after(ranks, folder, batches[:count], pipelined=mode)
            for mode in (False, True)
        ]
        for count in (0, 1, 2)
    ]
    return found


def local_weights_after(ranks, folder, batches, *, pipelined):
    sharded = made(ranks, folder, pipelined=pipelined)
    run_pass(sharded, batches)
    return local_weights(sharded)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("pipeline") / "data", days=1, rows=370)


@pytest.fixture(scope="module", params=(1, 2))
def job(request, folder):
    """Every rank's result."""
    return run_ranks(body, request.param, folder)


def equal(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[key], other[key]) for key in one)


def test_losses_and_weights_are_those_of_the_plain_loop_to_the_last_bit(job):
    for result in job:
        plain, overlapped = result[False], result[True]
        assert overlapped["losses"] == plain["losses"]
        assert len(plain["losses"]) == STEPS
        assert overlapped["pass"] == plain["pass"]
        assert equal(overlapped["middle"], plain["middle"]), "a save in mid-day"
        assert equal(overlapped["end"], plain["end"])
        assert not equal(plain["middle"], plain["end"]), "the comparison could fail"


def test_the_ids_really_travel_ahead_and_the_model_is_given_back(job):
    for result in job:
        assert all(result[True]["pipelined"])
        assert len(result[True]["pipelined"]) == 2 * STEPS
        assert not any(result[False]["pipelined"])
        assert result[True]["pipelined after"] == [False, False]


def test_a_signal_ends_the_pass_after_the_same_step_and_another_goes_on_from_there(job):
    for result in job:
        assert result["in two"]["stopped"] == (True, 2)
        assert equal(result["in two"]["end"], result[True]["end"])


def test_faults_are_named_at_the_same_step_and_nothing_is_learned_after_them(job):
    for result in job:
        for at, index in ((2, 0), (5, 2), (6, 4)):
            plain, overlapped = result["faults"][index : index + 2]
            wanted = f"the loss is not finite at step {at}, day 20260101: unknown"
            assert plain == overlapped == ((wanted, True), at, False)


def test_a_readers_error_on_one_rank_is_everyones(job):
    for result in job:
        assert result["torn"] == ("part-00003 is torn; write it again", True)


def test_passes_shorter_than_the_pipeline_are_whole(job):
    for result in job:
        none, one, two = result["short"]
        for plain, overlapped in (none, one, two):
            assert equal(plain, overlapped)
        assert not equal(none[0], one[0])
        assert not equal(one[0], two[0])
