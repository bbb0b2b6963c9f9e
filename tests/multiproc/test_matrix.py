"""Kinds of placement, memory and communication against one process; `benchmarks.placement` has all.

Tolerances: the reference is in float64, and where a row's gradient is nearly zero AdaGrad divides
one rounding error by another.
"""

import numpy as np
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.shard.choose import PlannerConfig
from lfm4ads.shard.comm import CommConfig
from lfm4ads.shard.kernel import KernelConfig
from lfm4ads.shard.place import PlaceConfig
from tests.gloo import run_ranks
from tests.multiproc.matrix import (
    HOST_KINDS,
    KINDS,
    Hosts,
    build,
    mine,
    reference,
    run_matrix,
    train,
)
from tests.multiproc.weights import join_weights, largest_difference, local_weights

pytestmark = pytest.mark.multiproc
TWO, FOUR = Hosts(2, 2), Hosts(4, 2)
CASES = {
    TWO: [(kind, "rowwise_adagrad") for kind in KINDS] + [("table_row_wise", "sgd")],
    FOUR: [(kind, "rowwise_adagrad") for kind in HOST_KINDS],
}
KERNELS = {
    "fused": PlaceConfig(default="row_wise"),
    "fused_uvm": PlaceConfig(default="row_wise", kernel=KernelConfig(kind="fused_uvm")),
    "cached": PlaceConfig(
        default="row_wise",
        kernels={
            name: KernelConfig(kind="fused_uvm_caching", cache_ratio=0.5)
            for name in ("item", "seen")
        },
    ),
}
COMMS = {
    "fp32": CommConfig(),
    "forward": CommConfig(forward="fp16"),
    "backward": CommConfig(backward="fp16"),
}
COMM_KINDS = ("table_wise", "row_wise")
PLANNER = PlaceConfig(default="planner", tables={"item": "row_wise"})


def trained(ranks, **options):
    sharded = build(ranks, **options)
    train(sharded, mine(ranks))
    return local_weights(sharded)


def sentence_of(ranks, **options):
    try:
        build(ranks, **options)
    except UserError as error:
        return str(error), error.everywhere
    return None


def body(ranks):
    """Return everything that differs from the plain matrix, by what it is called."""
    found = run_matrix(ranks, CASES[Hosts(ranks.world, ranks.host_ranks)])
    if ranks.world > 2:
        return found | {"planner": trained(ranks, place=PLANNER)}
    for name, place in KERNELS.items():
        found[name] = trained(ranks, place=place)
    for name, comm in COMMS.items():
        for kind in COMM_KINDS:
            found[name, kind, "comm"] = trained(ranks, kind=kind, optimiser="sgd", comm=comm)
    sharded = build(ranks, place=PLANNER)
    modules = {path: part.items() for path, part in sharded.model.plan.plan.items()}
    found["plan"] = {
        name: (one.sharding_type, one.compute_kernel)
        for part in modules.values()
        for name, one in part
    }
    small = PlannerConfig(device_gib=1e-6)
    found["too small"] = sentence_of(ranks, place=PlaceConfig(default="planner", planner=small))
    found["bf16"] = sentence_of(ranks, comm=CommConfig(forward="bf16"))
    found["adam"] = sentence_of(ranks, optimiser="adam")
    found["ssd"] = sentence_of(ranks, place=PlaceConfig(kernel=KernelConfig(kind="key_value")))
    return found


@pytest.fixture(scope="module")
def jobs():
    """Every rank's results by layout."""
    return {hosts: run_ranks(body, hosts.world, host_ranks=hosts.host_ranks) for hosts in CASES}


def joined(results, name):
    return join_weights([one[name] for one in results])


RUNS = [(hosts, *case) for hosts, cases in CASES.items() for case in cases]


@pytest.mark.parametrize(("hosts", "kind", "optimiser"), RUNS, ids=str)
def test_ten_steps_are_those_of_one_process(jobs, hosts, kind, optimiser):
    found = joined(jobs[hosts], (kind, optimiser))
    distance, where = largest_difference(found, reference(kind, optimiser, hosts=hosts))
    assert distance < (1e-6 if optimiser == "sgd" else 3e-5), where


def test_columns_cut_differently_are_another_algorithm_and_show():
    """The comparisons above can tell it: one accumulator a row against one a row and shard."""
    one, other = (reference(k, "rowwise_adagrad", hosts=FOUR) for k in ("row_wise", "grid"))
    assert largest_difference(one, other)[0] > 1e-3


def test_host_memory_kernels_learn_the_same_on_cpu(jobs):
    plain, *others = (joined(jobs[TWO], name) for name in KERNELS)
    for other in others:
        assert largest_difference(plain, other)[0] == 0
    assert largest_difference(plain, joined(jobs[TWO], ("row_wise", "rowwise_adagrad")))[0] == 0


@pytest.mark.parametrize("kind", COMM_KINDS)
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_half_precision_on_the_wire_differs_and_differs_little(jobs, kind, way):
    exact, half = (joined(jobs[TWO], (name, kind, "comm")) for name in ("fp32", way))
    distance, _ = largest_difference(exact, half)
    assert 1e-7 < distance < 1e-3


def test_the_planner_chooses_within_limits_and_the_same_is_learned(jobs):
    plans = [one["plan"] for one in jobs[TWO]]
    assert plans[0] == plans[1]
    assert plans[0]["item"] == ("row_wise", "fused")
    assert {kind for kind, _ in plans[0].values()} <= {"table_wise", "row_wise", "column_wise"}
    assert {kernel for _, kernel in plans[0].values()} == {"fused"}
    # No table is so wide that the planner would cut its columns.
    found = joined(jobs[FOUR], "planner")
    wanted = reference("row_wise", "rowwise_adagrad", hosts=FOUR)
    assert largest_difference(found, wanted)[0] < 3e-5


REFUSALS = {
    "too small": "the tables do not fit in 1e-06 GiB a rank on 2 ranks",
    "bf16": "shard.comm.forward is bf16, which gloo cannot send; use fp16 on CPU",
    "adam": "shard.optim.sparse_kind adam has no kernel on CPU; use rowwise_adagrad, or train on",
    "ssd": "has kernel key_value, which does not run on CPU and which checkpoints do not cover;",
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_cannot_be_is_refused_on_every_rank_in_a_sentence(jobs, what):
    for result in jobs[TWO]:
        sentence, everywhere = result[what]
        assert REFUSALS[what] in sentence
        assert everywhere


def test_the_tables_of_the_toy_move_far_more_than_the_tolerance():
    first = reference("row_wise", "sgd", hosts=TWO)
    other = reference("row_wise", "adagrad", hosts=TWO)
    assert all(np.abs(first[name] - other[name]).max() > 1e-3 for name in first if "embed" in name)
