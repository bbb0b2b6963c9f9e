"""Weighing tasks on sharded tables: no rank count, pipeline or comparison of gradients shows."""

import numpy as np
import pytest

from lfm4ads.nn.tables import looked_up
from lfm4ads.train.between import BetweenConfig, task_gram
from lfm4ads.train.losses import masked_bce
from lfm4ads.train.objective import LossConfig, Objective
from tests.batches import read_batches
from tests.gloo import run_ranks
from tests.multiproc.jobs import INTEREST, build, schema_of
from tests.multiproc.test_loop import run_pass
from tests.multiproc.weights import join_weights, largest_difference, local_weights
from tests.worlds import write_tiny

pytestmark = pytest.mark.multiproc
KINDS = ("uncertainty", "gradnorm", "pcgrad")
LOSSES = {
    **{kind: LossConfig(between=BetweenConfig(kind=kind, rate=0.1)) for kind in KINDS},
    "ranked": LossConfig(rank="pair", alpha=0.5, between=BetweenConfig(kind="pcgrad")),
    "none": LossConfig(),
}
"""Every placement, and rows that are looked up id by id."""


def learn(ranks, folder, batches, *, kind, pipelined=False):
    """Return state, this rank's weights and losses of a pass over every placement of tables.

    Row-wise AdaGrad would be another algorithm on each number of column shards.
    """
    sharded = build(folder, ranks, place="mixed", kind="adagrad", model=INTEREST)
    sharded.pipelined = pipelined
    objective = Objective(LOSSES[kind], schema=schema_of(folder), ranks=ranks)
    losses = []

    def loss(batch):
        logits = sharded.model(batch).logits
        looked = lambda: looked_up(sharded.model.module)  # noqa: E731 - read where it is used
        value = objective(logits, batch, step=len(losses), looked=looked)
        losses.append(value.item())
        return value

    run_pass(sharded, batches, loss=loss)
    return objective.between.state(), local_weights(sharded), losses


def compare_in_vain(ranks, folder, batches, *, compares):
    """Return the weights of plain training, in which gradients are compared for nothing."""
    sharded = build(folder, ranks, place="mixed", kind="adagrad", model=INTEREST)
    objective = Objective(LossConfig(), schema=schema_of(folder), ranks=ranks)
    traces = []

    def loss(batch):
        logits = sharded.model(batch).logits
        if compares:
            before = everything(sharded)
            losses_T = objective.by_task(logits, batch, step=0).losses_T
            task_gram(losses_T, looked=looked_up(sharded.model.module))
            after = everything(sharded)
            assert len(after) == len(before)
            traces.extend(key for key in before if not np.array_equal(before[key], after[key]))
        return masked_bce(logits, batch)

    run_pass(sharded, batches, loss=loss)
    return local_weights(sharded), traces


def everything(sharded):
    """Return weights and gradients, which until a step's backward are those of the step before."""
    gradients = {
        f"gradient of {name}": np.zeros(0) if one.grad is None else one.grad.numpy().copy()
        for name, one in sharded.dense_parameters().items()
    }
    return {**local_weights(sharded), **gradients}


def body(ranks, folder):
    batches = read_batches(folder, ranks=ranks)
    found = {kind: learn(ranks, folder, batches, kind=kind) for kind in LOSSES}
    found["pipelined"] = learn(ranks, folder, batches, kind="gradnorm", pipelined=True)
    found["in vain"] = [
        compare_in_vain(ranks, folder, batches, compares=compares) for compares in (False, True)
    ]
    return found


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    folder = write_tiny(tmp_path_factory.mktemp("between") / "data", days=1, rows=300)
    return {world: run_ranks(body, world, folder) for world in (1, 2)}


@pytest.mark.parametrize("kind", LOSSES)
def test_two_ranks_learn_what_one_learns(jobs, kind):
    (alone,), two = jobs[1], jobs[2]
    state = alone[kind][0]
    assert two[0][kind][0] == two[1][kind][0], "ranks agree to the last bit"
    for name in state or ():
        np.testing.assert_allclose(two[0][kind][0][name], state[name], rtol=1e-4, err_msg=name)
    losses = np.sum([one[kind][2] for one in two], axis=0)
    np.testing.assert_allclose(losses, alone[kind][2], rtol=1e-5)
    one, other = join_weights([alone[kind][1]]), join_weights([rank[kind][1] for rank in two])
    assert largest_difference(one, other)[0] < 1e-4


def test_the_kinds_learn_otherwise_and_tasks_conflict(jobs):
    (alone,) = jobs[1]
    weights = {kind: join_weights([alone[kind][1]]) for kind in LOSSES}
    for kind in (*KINDS, "ranked"):
        assert largest_difference(weights[kind], weights["none"])[0] > 1e-2
    assert sum(alone["pcgrad"][0]["conflicts_T"]) > 0


@pytest.mark.parametrize("world", [1, 2])
def test_comparing_gradients_moves_no_table_and_no_gradient(jobs, world):
    for rank in jobs[world]:
        (plain, _), (compared, traces) = rank["in vain"]
        assert traces == []
        assert all(np.array_equal(plain[key], compared[key]) for key in plain)


@pytest.mark.parametrize("world", [1, 2])
def test_overlapped_ids_change_no_bit(jobs, world):
    for rank in jobs[world]:
        (state, weights, losses), overlapped = rank["gradnorm"], rank["pipelined"]
        assert state == overlapped[0]
        assert losses == overlapped[2]
        assert all(np.array_equal(weights[key], overlapped[1][key]) for key in weights)
