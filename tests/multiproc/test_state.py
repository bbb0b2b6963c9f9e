"""What is saved comes back to the last bit: weights, optimiser state, on other plans and ranks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.data.schema import load_schema
from lfm4ads.model.arm import ArmConfig
from lfm4ads.model.downstream import Downstream, DownstreamConfig
from lfm4ads.model.isomorphic import Twin, module_weights
from lfm4ads.shard.optim import OptimConfig
from lfm4ads.shard.sharded import ShardConfig, shard_model
from lfm4ads.shard.state import (
    copy_weights,
    full_state,
    load_sharded,
    load_tensors,
    load_weights,
    put_weights,
    save_sharded,
)
from lfm4ads.train.transplant import transplant
from tests.batches import read_batches
from tests.gloo import run_ranks
from tests.multiproc.jobs import KINDS, MODEL, PLACES, build, train
from tests.multiproc.weights import differences, join_weights, local_weights, tensors_of
from tests.worlds import write_tiny

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(400)]
SAVE_AT, STEPS = 3, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("state") / "data", days=1, rows=620)


def restart_body(ranks, folder, checkpoints):
    """Train straight and with a restart in the middle; return what differs, per plan and kind."""
    batches = read_batches(folder, ranks=ranks)[:STEPS]
    found = {}
    for place in PLACES:
        for kind in KINDS:
            path = checkpoints / f"{place}-{kind}"
            straight = build(folder, ranks, place=place, kind=kind)
            train(straight, batches[:SAVE_AT])
            save_sharded(path, straight, meta={"step": SAVE_AT})
            saved = tensors_of(full_state(straight)[0])
            train(straight, batches[SAVE_AT:])

            other = build(folder, ranks, place=place, kind=kind, seed=99)
            before = tensors_of({"model": other.model.state_dict()})
            meta = load_sharded(path, other)
            loaded = tensors_of(full_state(other)[0])
            train(other, batches[meta["step"] :])
            ends = tensors_of(full_state(straight)[0]), tensors_of(full_state(other)[0])
            found[place, kind] = {
                "loaded": differences(saved, loaded),
                "end": differences(*ends),
                "was equal": [name for name in before if torch.equal(before[name], loaded[name])],
                "stood still": [name for name in saved if torch.equal(saved[name], ends[0][name])],
                "optimiser": sorted({name.split("/")[1] for name in saved}),
            }
    return found


@pytest.mark.parametrize("world", [1, 2])
def test_a_restarted_run_is_the_straight_run(folder, tmp_path, world):
    for result in run_ranks(restart_body, world, folder, tmp_path, seconds=300):
        for run, found in result.items():
            assert found["loaded"] == [], run
            assert found["end"] == [], run
            # The comparisons could fail: other weights were there, and every tensor moved since.
            assert found["was equal"] == [], run
            assert found["stood still"] == [], run
            assert "dense" in found["optimiser"], run
    with_state = {run for run, found in result.items() if "sparse" in found["optimiser"]}
    assert with_state == {(place, kind) for place in PLACES for kind in KINDS if kind != "sgd"}


def write_body(ranks, folder, checkpoints):
    """Write a trained model of every plan."""
    found = {}
    for place in PLACES:
        sharded = build(folder, ranks, place=place)
        train(sharded, read_batches(folder, ranks=ranks)[:2])
        save_sharded(checkpoints / place, sharded, meta={"place": place})
        found[place] = local_weights(sharded)
    return found


def read_body(ranks, folder, checkpoints, wanted):
    """Load every checkpoint on every plan; return what differs."""
    wrong = []
    for place in PLACES:
        sharded = build(folder, ranks, place=place, seed=99)
        for source, weights in wanted.items():
            assert load_weights(checkpoints / source, sharded) == {"place": source}
            for (name, row, column), value in local_weights(sharded).items():
                end = (row + value.shape[0], column + value.shape[-1]) if value.ndim == 2 else None
                part = (
                    weights[name] if end is None else weights[name][row : end[0], column : end[1]]
                )
                if not np.array_equal(value, part):
                    wrong.append((source, place, name))
            assert len(local_weights(sharded)) >= len(weights) - 3
    return wrong


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory):
    """(checkpoints of two ranks by plan, their whole weights)."""
    checkpoints = tmp_path_factory.mktemp("written")
    results = run_ranks(write_body, 2, folder, checkpoints)
    return checkpoints, {
        place: join_weights([result[place] for result in results]) for place in PLACES
    }


@pytest.mark.parametrize("world", [1, 4])
def test_weights_of_two_ranks_load_on_any_plan_and_number_of_ranks(folder, written, world):
    assert run_ranks(read_body, world, folder, *written) == [[]] * world


def module_arm(folder, *, tasks):
    torch.manual_seed(99)
    return Downstream(
        load_schema(folder),
        DownstreamConfig(mlp=(8,)),
        arm=ArmConfig(module="both"),
        tasks=tasks,
        domain="ads",
        rep_dims={"user.ur": 8, "item.ir": 8},
        upstream=MODEL,
    )


def borrow_body(ranks, folder, checkpoint):
    """Read single tensors, transplant a module, keep and restore weights in memory."""
    found = {}
    tensors = {
        "heads.shared": torch.zeros(3, 8),
        "mix.interactions.cross.layers.1.bias": torch.zeros(16),
    }
    load_tensors(checkpoint, tensors, ranks=ranks)
    found["tensors"] = {name: tensor.numpy() for name, tensor in tensors.items()}

    found["refusals"] = []
    for wrong in ({"heads.colour": torch.zeros(3)}, {"heads.shared": torch.zeros(2, 8)}):
        try:
            load_tensors(checkpoint, wrong, ranks=ranks)
        except UserError as error:
            found["refusals"].append(str(error))

    model = module_arm(folder, tasks=[2, 0])
    rates = OptimConfig(dense_lr=1e-3, weight_decay=0.0)
    sharded = shard_model(
        model, config=ShardConfig(optim=rates), ranks=ranks, seed=1, lr_scales={"module.": 0.1}
    )
    names = module_weights(sharded.model.state_dict())
    coverage = transplant(sharded, names, checkpoint, prefix="module.")
    found["coverage"] = coverage.as_json()
    found["module"] = {
        name: parameter.detach().numpy().copy()
        for name, parameter in sharded.dense_parameters().items() if name.startswith("module.")
    }  # fmt: skip
    first = tensors_of(sharded.model.state_dict())
    kept = copy_weights(sharded)
    with torch.no_grad():
        for shard in copy_weights(sharded).values():
            shard.add_(1)  # a copy of its own: must change neither the model nor ``kept``
        found["aliased"] = differences(first, tensors_of(sharded.model.state_dict()))
        for parameter in sharded.dense_parameters().values():
            parameter.add_(1)
        for value in sharded.model.state_dict().values():
            for shard in value.local_shards() if hasattr(value, "local_shards") else []:
                shard.tensor.add_(1)
    moved = differences(first, tensors_of(sharded.model.state_dict()))
    found["unmoved"] = sorted(first.keys() - set(moved))
    put_weights(sharded, kept)
    found["not restored"] = differences(first, tensors_of(sharded.model.state_dict()))
    found["first steps"] = largest_steps(sharded, read_batches(folder, ranks=ranks)[0])
    return found


def largest_steps(sharded, batch):
    """Train one step of the module arm; return how far the numbers of each dense tensor moved."""
    for name in ("user.ur", "item.ir"):
        batch.reps[name] = torch.randn(len(batch), 8)
        batch.present[name] = (torch.arange(len(batch)) % 4 > 0).float()
    before = {name: one.detach().clone() for name, one in sharded.dense_parameters().items()}
    sharded.step(sharded.model(batch).sum())
    return {
        name: (one.detach() - before[name]).abs().max().item()
        for name, one in sharded.dense_parameters().items()
    }


@pytest.fixture(scope="module")
def borrowed(folder, written):
    checkpoints, weights = written
    return run_ranks(borrow_body, 2, folder, checkpoints / "mixed"), weights["mixed"]


def test_single_tensors_can_be_read(borrowed):
    results, weights = borrowed
    for result in results:
        assert len(result["tensors"]) == 2
        for name, tensor in result["tensors"].items():
            np.testing.assert_array_equal(tensor, weights[name])


def test_tensors_that_do_not_fit_are_refused_in_a_sentence(borrowed):
    for result in borrowed[0]:
        missing, misshapen = result["refusals"]
        assert "heads.colour" in missing
        assert "heads.shared" in misshapen
        for sentence in (missing, misshapen):
            assert "does not fit the model" in sentence
            assert "use the config that wrote it" in sentence


def test_a_transplanted_module_holds_the_upstreams_weights(borrowed):
    results, weights = borrowed
    for result in results:
        taken = ("mix.interactions", "mix.branches.ads", "heads.")
        wanted = {
            f"module.{name}": value for name, value in weights.items() if name.startswith(taken)
        }
        assert len(wanted) == 11
        own = {"module.join.weight": np.zeros((8, 8)), "module.join.bias": np.zeros(8)}
        own |= {f"module.default_{side}": np.zeros(8) for side in ("ur", "ir")}
        assert result["coverage"]["copied"] == {
            name: list(one.shape) for name, one in wanted.items()
        }
        assert result["coverage"]["skipped"] == {name: list(one.shape) for name, one in own.items()}
        wanted |= own
        assert result["module"].keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_array_equal(result["module"][name], value, err_msg=name)


def test_weights_kept_in_memory_come_back(borrowed):
    for result in borrowed[0]:
        assert result["aliased"] == []
        assert result["unmoved"] == []
        assert result["not restored"] == []


def test_a_part_of_the_model_can_learn_more_slowly(borrowed):
    for result in borrowed[0]:
        # The first step of Adam moves a number by its learning rate.
        steps = result["first steps"]
        for name, step in steps.items():
            rate = 1e-4 if name.startswith("module.") else 1e-3
            assert step == pytest.approx(rate, rel=0.01), name
        assert {name.split(".")[0] for name in steps} >= {"module", "cross", "mlp", "heads"}


LEVELS = ("nothing", "towers", "cross_cross_1", "top_1", "everything")


def twin_body(ranks, folder, checkpoint, wider):
    """Copy the upstream's network up to every level; also into one with a scenario more."""
    schema = load_schema(folder)
    found = {}
    for level in LEVELS:
        torch.manual_seed(99)
        model = Twin(schema, MODEL, domain="ads", tasks=[2, 0])
        names = model.copied(level)
        sharded = shard_model(model, config=ShardConfig(), ranks=ranks, seed=1)
        before = local_weights(sharded)
        coverage = transplant(sharded, names, checkpoint, prefix="network.").as_json()
        found[level] = before, local_weights(sharded), coverage
    torch.manual_seed(99)
    model = Twin(replace(schema, **wider), MODEL, domain="ads", tasks=[2, 0])
    names = model.copied("everything")
    sharded = shard_model(model, config=ShardConfig(), ranks=ranks, seed=1)
    before = local_weights(sharded)["network.heads.bias", 0, 0]
    coverage = transplant(sharded, names, checkpoint, prefix="network.").as_json()
    after = local_weights(sharded)["network.heads.bias", 0, 0]
    found["wider"] = before, after, coverage
    try:
        transplant(sharded, names | {"network.heads.bias": "heads.colour"}, checkpoint, prefix="x")
    except UserError as error:
        found["refusal"] = str(error)
    return found


@pytest.fixture(scope="module")
def twins(folder, written):
    checkpoints, weights = written
    wider = {"scenarios": (*load_schema(folder).scenarios, "new")}
    return run_ranks(twin_body, 2, folder, checkpoints / "mixed", wider), weights["mixed"]


@pytest.mark.parametrize("level", LEVELS)
def test_layers_are_copied_up_to_the_named_one_and_no_further(twins, level):
    results, _ = twins
    first, after, coverage = results[0][level]
    changed = {key[0] for key in first if not np.array_equal(first[key], after[key])}
    pieces = {name for name, _, _ in first}
    assert set(coverage["copied"]) | set(coverage["skipped"]) >= pieces
    assert not set(coverage["copied"]) & set(coverage["skipped"])
    assert coverage["resized"] == {}
    assert changed <= set(coverage["copied"])
    parts = {
        "towers": ("network.tables.", "network.users.", "network.items."),
        "cross_cross_1": ("network.mix.interactions.cross.layers.0.",),
        "top_1": ("network.mix.interactions.cross.", "network.mix.branches.ads."),
        "everything": ("network.",),
    }
    for one in LEVELS[1 : LEVELS.index(level) + 1]:
        names = {name for name in pieces if name.startswith(parts[one])}
        assert names, one
        assert names <= set(coverage["copied"]), one
    if level == "cross_cross_1":
        assert not any(name.startswith("network.mix.branches") for name in coverage["copied"])
    if level == "nothing":
        assert changed == set()
        assert coverage["share"] == 0
    if level == "everything":
        assert coverage["skipped"] == {}
        assert coverage["share"] == 1


def test_every_copied_tensor_is_the_upstreams(twins):
    results, weights = twins
    whole = join_weights([one["everything"][1] for one in results])
    assert whole.keys() == {f"network.{name}" for name in weights}
    for name, value in weights.items():
        np.testing.assert_array_equal(whole[f"network.{name}"], value, err_msg=name)


def test_heads_of_a_scenario_the_upstream_did_not_know_keep_their_start(twins):
    results, weights = twins
    before, after, coverage = results[0]["wider"]
    known = len(weights["heads.bias"])
    assert coverage["resized"].keys() == {"network.heads.bias", "network.heads.delta"}
    assert len(after) == known + 1
    np.testing.assert_array_equal(after[:known], weights["heads.bias"])
    np.testing.assert_array_equal(after[known:], before[known:])


def test_a_name_that_matches_nothing_is_an_error(twins):
    for result in twins[0]:
        assert (
            "has no tensor heads.colour, which network.heads.bias starts from" in result["refusal"]
        )
