"""Several table sets: what each task reads, and what its loss trains.

STEM and STEM-AL (arXiv 2308.13537) and what they are without their stop-gradient: AUC cannot tell
them apart, gradients can.
"""

from dataclasses import replace

import pytest
import torch

from lfm4ads.model.config import LfmConfig, MultitaskConfig
from lfm4ads.model.multitask import expand_multitask
from lfm4ads.nn.branch import MixConfig
from lfm4ads.nn.tables import TableSet
from lfm4ads.shard.optim import OptimConfig
from lfm4ads.train.losses import masked_bce
from tests.plain import PlainTrainer
from tests.unit.model.shapes import PAIRS, TOWER, belongs, build, expert, mix, run, stir

TASKS = ("click", "long_view", "conversion")
SETS = (*TASKS, "shared")
STEM = LfmConfig(
    tower=TOWER,
    sets=dict.fromkeys(SETS, TableSet()),
    mix=mix("gate", per_task=True, **{one: expert(tables=one, layers=1) for one in SETS}),
    trains={task: [task, "shared"] for task in TASKS},
)
AUXILIARY = replace(
    STEM,
    sets=dict.fromkeys(("own", "aux"), TableSet()),
    mix=mix("gate", per_task=True, own=expert(tables="own"), aux=expert("flat", tables="aux")),
    reads={"long_view": ["aux"]},
    trains={"click": ["own"], "conversion": ["own"]},
)
"""STEM-AL: click and conversion are main tasks, long_view teaches them."""
NAMED = LfmConfig(
    tower=TOWER,
    multitask=MultitaskConfig(kind="stem", shared_experts=1, hidden=(20,), gate_hidden=(6,)),
    mix=MixConfig(hidden=(10,)),
)
TWO_LEVELS = replace(NAMED, multitask=replace(NAMED.multitask, layers=2))
VARIANTS = {
    "gate": STEM,
    "pairs": replace(STEM, pairs=PAIRS),
    "mean": replace(STEM, mix=replace(STEM.mix, merge=replace(STEM.mix.merge, kind="mean"))),
    "learned": replace(STEM, mix=replace(STEM.mix, merge=replace(STEM.mix.merge, kind="learned"))),
    "identity": replace(STEM, tower=replace(TOWER, rep_dim=0)),
    "named": expand_multitask(NAMED, tasks=TASKS),
    "two levels": expand_multitask(TWO_LEVELS, tasks=TASKS),
    "three levels": expand_multitask(
        replace(NAMED, multitask=replace(NAMED.multitask, layers=3)), tasks=TASKS
    ),
}


def gradients(model, batch, weights):
    """Gradients of the weighted sum of the tasks' losses."""
    model.zero_grad(set_to_none=True)
    factors = torch.tensor(weights).expand(len(batch), -1)
    masked_bce(model(batch).logits, batch, weights_BT=factors).backward()
    return {
        name: torch.zeros_like(one) if one.grad is None else one.grad.clone()
        for name, one in model.named_parameters()
    }


def alone(task, *, weight=1.0):
    return [weight * (one == task) for one in TASKS]


def add_noise(model, table_set):
    with torch.no_grad():
        for name, weight in model.tables.named_parameters():
            if f".{table_set}/" in name:
                weight.add_(torch.randn_like(weight))


def changed_tasks(model, batch, move):
    before = run(model, batch).logits
    move()
    return {
        task
        for task, far in zip(TASKS, (run(model, batch).logits - before).abs().amax(0), strict=True)
        if far > 1e-6
    }


@pytest.fixture(params=VARIANTS)
def stem(request, schema, batch):
    return stir(build(schema, VARIANTS[request.param], batch))


def test_every_set_has_tables_of_its_own_and_all_its_parts_once(stem, schema):
    sizes = {
        one: sum(p.numel() for name, p in stem.named_parameters() if belongs(name, one))
        for one in SETS
    }
    assert len(set(sizes.values())) == 1, sizes
    tables = {name.split(".")[-2] for name, _ in stem.tables.named_parameters()}
    assert tables == {
        *(f"{one}/{table}" for one in SETS for table in schema.tables),
        "context/tag",
    }


@pytest.mark.parametrize("table_set", SETS)
def test_every_task_reads_every_set(stem, batch, table_set):
    assert changed_tasks(stem, batch, lambda: add_noise(stem, table_set)) == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_a_tasks_loss_trains_its_own_set_and_the_shared_one_alone(stem, schema, batch, task):
    labelled = schema.tasks[task].domains or schema.domains
    for name, gradient in gradients(stem, batch, alone(task)).items():
        parts = name.split(".")
        for place, other in enumerate(TASKS):
            streams = {f"gates.{place}.", f"tops.{place}."}
            if other != task and (belongs(name, other) or any(one in name for one in streams)):
                assert torch.equal(gradient, torch.zeros_like(gradient)), name
        if belongs(name, task) or belongs(name, "shared"):
            assert gradient.any() == ("branches" not in parts or parts[2] in labelled), name


@pytest.mark.parametrize("variant", ["gate", "mean", "learned"])
def test_without_the_stop_gradient_every_loss_trains_every_set(schema, batch, variant):
    """The negative control: trains equal to reads."""
    model = stir(build(schema, replace(VARIANTS[variant], trains={}), batch))
    for task in TASKS:
        found = gradients(model, batch, alone(task))
        for name, gradient in found.items():
            if name.startswith(("tables.", "users.", "items.")):
                assert gradient.abs().sum() > 0, (task, name)


@pytest.mark.parametrize("leaks", [False, True])
def test_the_shared_gate_between_two_levels_is_where_stem_would_leak(schema, batch, leaks):
    """STEM's public code lets it train all experts; of one level alone nothing shows."""
    model = stir(build(schema, VARIANTS["two levels"], batch))
    assert model.mix.branches["ads"]._levels[0].streams == (*TASKS, "shared")
    if leaks:
        for branch in model.mix.branches.values():
            branch.merge._trains[-1] = [True] * len(SETS)
    found = gradients(model, batch, alone("click"))
    for other in ("long_view", "conversion"):
        theirs = [one for name, one in found.items() if belongs(name, other)]
        assert any(one.any() for one in theirs) == leaks


@torch.no_grad()
def test_the_stop_gradient_of_a_gated_merge_changes_no_value_and_all_gradients(schema, batch):
    """A gate's input is made of what its task trains, so the merge alone is told to let through."""
    model = stir(build(schema, STEM, batch))
    before = run(model, batch)
    for branch in model.mix.branches.values():
        branch.merge._stopped = False
    after = run(model, batch)
    assert torch.equal(before.logits, after.logits)
    assert all(torch.equal(before.layers[name], after.layers[name]) for name in before.layers)
    with torch.enable_grad():
        found = gradients(model, batch, alone("click"))
    tables = [name for name in found if name.startswith("tables.")]
    assert all(found[name].any() for name in tables)


@pytest.mark.parametrize("variant", ["mean", "learned"])
def test_the_stop_gradient_changes_no_value(schema, batch, variant):
    config = VARIANTS[variant]
    one = stir(build(schema, config, batch))
    other = build(schema, replace(config, trains={}), batch)
    other.load_state_dict(one.state_dict())
    one, other = run(one, batch), run(other, batch)
    assert torch.equal(one.logits, other.logits)
    assert all(torch.equal(one.layers[name], other.layers[name]) for name in one.layers)


@pytest.mark.parametrize("task", TASKS)
def test_the_joint_loss_gives_a_tasks_set_the_gradient_of_its_own_loss(stem, batch, task):
    """The strongest single test of all-forward, task-specific backward."""
    joint, own = gradients(stem, batch, [1.0] * 3), gradients(stem, batch, alone(task))
    double = gradients(stem, batch, [1.0 + (one == task) for one in TASKS])
    for name, gradient in joint.items():
        if belongs(name, task):
            torch.testing.assert_close(gradient, own[name], rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(double[name], 2 * gradient, rtol=1e-6, atol=1e-7)
        elif any(belongs(name, other) for other in TASKS):
            torch.testing.assert_close(double[name], gradient, rtol=1e-6, atol=1e-7)
    shared = [name for name in joint if name.startswith("tables.") and belongs(name, "shared")]
    assert all((joint[name] - own[name]).abs().max() > 1e-4 for name in shared)


def test_context_is_trained_by_every_task_and_in_no_tasks_set(stem, batch):
    name = "tables.bags.embedding_bags.context/tag.weight"
    assert all(gradients(stem, batch, alone(task))[name].abs().sum() > 0 for task in TASKS)


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "adagrad"])
def test_one_step_on_a_task_leaves_other_sets_and_their_state(schema, batch, kind):
    model = stir(build(schema, STEM, batch))
    before = {name: weight.detach().clone() for name, weight in model.tables.named_parameters()}
    trainer = PlainTrainer(model, optim=OptimConfig(sparse_kind=kind, weight_decay=0.0))
    factors = torch.tensor(alone("click")).expand(len(batch), -1)
    trainer.step(masked_bce(model(batch).logits, batch, weights_BT=factors) / len(batch))
    for name, weight in model.tables.named_parameters():
        still = any(belongs(name, other) for other in ("long_view", "conversion"))
        assert torch.equal(weight, before[name]) == still, name
        assert (not trainer._sums[name.split(".")[-2]].any()) == still, name


def test_gates_are_shares_that_differ_between_tasks(schema, batch):
    model = stir(build(schema, STEM, batch))
    weights_BSM = run(model, batch).weights
    assert weights_BSM.shape == (len(batch), len(TASKS), len(SETS))
    torch.testing.assert_close(weights_BSM.sum(2), torch.ones(len(batch), 3))
    assert (weights_BSM > 0).all()
    mass_SM = weights_BSM.mean(0)
    torch.testing.assert_close(mass_SM.sum(1), torch.ones(3))
    for one in range(3):
        assert all((mass_SM[one] - mass_SM[other]).abs().max() > 1e-3 for other in range(one))
        assert (weights_BSM[0, one] - weights_BSM[1, one]).abs().max() > 1e-4, "a gate sees rows"


def test_a_gate_sees_only_fields_that_its_task_trains(schema, batch):
    model = stir(build(schema, STEM, batch))
    before = run(model, batch).weights
    add_noise(model, "click")
    moved = (run(model, batch).weights - before).abs().amax(dim=(0, 2))
    assert moved[0] > 1e-4
    assert moved[1:].max() == 0


@pytest.mark.parametrize("main", ["click", "conversion"])
def test_auxiliary_learning_teaches_main_tasks_one_way(schema, batch, main):
    """STEM-AL: the main tasks read both sets; no loss crosses."""
    model = stir(build(schema, AUXILIARY, batch))
    found = gradients(model, batch, alone(main))
    assert all(not gradient.any() for name, gradient in found.items() if belongs(name, "aux"))
    assert any(gradient.any() for name, gradient in found.items() if belongs(name, "own"))
    found = gradients(model, batch, alone("long_view"))
    assert all(not gradient.any() for name, gradient in found.items() if belongs(name, "own"))
    assert any(gradient.any() for name, gradient in found.items() if belongs(name, "aux"))
    weights = run(model, batch).weights
    assert torch.equal(weights[:, 1], torch.tensor([0.0, 1.0]).expand(len(batch), -1))
    assert changed_tasks(model, batch, lambda: add_noise(model, "aux")) == set(TASKS)
    assert changed_tasks(model, batch, lambda: add_noise(model, "own")) == {"click", "conversion"}


def test_an_auxiliary_tasks_layers_matter_to_no_main_task(schema, batch):
    model = stir(build(schema, AUXILIARY, batch))

    def change_tops():
        with torch.no_grad():
            for branch in model.mix.branches.values():
                for parameter in branch.tops[1].parameters():
                    parameter.add_(1.0)

    assert changed_tasks(model, batch, change_tops) == {"long_view"}
