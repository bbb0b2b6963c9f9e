"""Multi-task networks by name: each against its forward pass by hand, and what sets it apart.

STEM's gradients are in test_sets.py.
"""

from dataclasses import replace

import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.model.config import HeadConfig, LfmConfig, MultitaskConfig
from lfm4ads.model.multitask import expand_multitask
from lfm4ads.nn.branch import MixConfig
from lfm4ads.nn.experts import MergeConfig
from lfm4ads.nn.tables import TableSet
from tests.unit.model.by_hand import logits_by_hand
from tests.unit.model.shapes import TOWER, belongs, build, run, stir
from tests.unit.model.test_sets import TASKS, add_noise, alone, changed_tasks, gradients

SHAPE = {"task_experts": 2, "shared_experts": 3, "hidden": (14, 12), "gate_hidden": (6,)}
KINDS = (
    "single", "shared_bottom", "omoe", "mmoe", "ple", "esmm", "aitm", "me_mmoe", "me_ple", "ame",
    "stem",
)  # fmt: skip


def config_of(kind, **words):
    words = {"gate_input": "trained"} | words if kind == "ame" else words
    return LfmConfig(
        tower=TOWER,
        mix=MixConfig(hidden=(10,)),
        multitask=MultitaskConfig(**SHAPE | words, kind=kind),
        context="user",
    )


def made(kind, schema, batch, **words):
    return stir(build(schema, expand_multitask(config_of(kind, **words), tasks=TASKS), batch))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_is_what_its_paper_says_by_loops(schema, batch, kind):
    model = made(kind, schema, batch)
    wanted = logits_by_hand(model, batch, kind=kind, tasks=TASKS)
    torch.testing.assert_close(run(model, batch).logits, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["ple", "me_ple", "stem"])
@torch.no_grad()
def test_two_levels_are_what_the_papers_say_by_loops(schema, batch, kind):
    model = made(kind, schema, batch, layers=2)
    wanted = logits_by_hand(model, batch, kind=kind, tasks=TASKS, layers=2)
    torch.testing.assert_close(run(model, batch).logits, wanted, rtol=1e-4, atol=1e-5)


def num_of_tables(model):
    return sum(one.numel() for one in model.tables.parameters())


def test_tables_are_as_many_as_each_kind_says(schema, batch):
    one = num_of_tables(made("shared_bottom", schema, batch))
    shared = ("omoe", "mmoe", "ple", "esmm", "aitm")
    factors = {"single": 3, "me_mmoe": 3, "me_ple": 4, "stem": 4} | dict.fromkeys(shared, 1)
    for kind, factor in factors.items():
        assert num_of_tables(made(kind, schema, batch)) == factor * one, kind
    wide = num_of_tables(made("mmoe", schema, batch, dim=32))
    assert wide == num_of_tables(made("stem", schema, batch, dim=8)), "the width-matched control"
    few = num_of_tables(made("ame", schema, batch, dims=(8, 16)))
    assert few == 3 * num_of_tables(made("shared_bottom", schema, batch, dim=8))


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        (kind, layers)
        for kind in KINDS
        for layers in (1, 2)
        if (kind, layers) != ("shared_bottom", 2)
    ],
)
def test_every_parameter_has_a_gradient(schema, batch, kind, layers):
    """One without would stop DistributedDataParallel, as an unused shared gate does."""
    model = made(kind, schema, batch, layers=layers)
    model(batch).logits.square().sum().backward()
    assert [name for name, one in model.named_parameters() if one.grad is None] == []


def test_tasks_of_omoe_share_a_gate_and_those_of_mmoe_do_not(schema, batch):
    one = run(made("omoe", schema, batch), batch).weights
    assert torch.equal(one[:, 0], one[:, 1])
    other = run(made("mmoe", schema, batch), batch).weights
    assert (other[:, 0] - other[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["single", "ple", "me_ple", "esmm", "aitm"])
def test_whose_experts_a_task_depends_on(schema, batch, kind):
    """Click is the first of the chain; conversion comes last."""

    def change(model, owner):
        with torch.no_grad():
            for name, one in model.named_parameters():
                if f".experts.expert_{owner}_" in name:
                    one.add_(0.3)

    later = {"esmm": {"click": 3, "long_view": 2}, "aitm": {"click": 3, "long_view": 2}}
    for place, task in enumerate(TASKS):
        model = made(kind, schema, batch)
        number = later.get(kind, {}).get(task, 1)
        moved = changed_tasks(model, batch, lambda model=model, task=task: change(model, task))
        assert moved == set(TASKS[place : place + number])


def test_no_task_of_single_meets_another(schema, batch):
    """So one run of it is a run of each task alone."""
    model = made("single", schema, batch)
    for task in TASKS:
        joint, own = gradients(model, batch, [1.0] * 3), gradients(model, batch, alone(task))
        mine = [name for name in joint if belongs(name, task)]
        assert any(name.startswith("tables.") for name in mine)
        assert all(torch.allclose(joint[name], own[name], atol=1e-7) for name in mine)
        others = [own[name] for name in own if any(belongs(name, t) for t in TASKS if t != task)]
        assert not any(one.any() for one in others)
        assert changed_tasks(model, batch, lambda t=task: add_noise(model, t)) == {task}


def test_a_task_of_esmm_is_never_likelier_than_what_it_comes_after(schema, batch):
    model = made("esmm", schema, batch)
    chance = run(model, batch).logits.sigmoid()
    assert (chance[:, 1:] <= chance[:, :-1]).all()
    found = gradients(model, batch, alone("click"))
    of_others = [one for name, one in found.items() if ".experts.expert_conversion_" in name]
    assert not any(one.any() for one in of_others)
    found = gradients(model, batch, alone("conversion"))
    of_click = [one for name, one in found.items() if ".experts.expert_click_" in name]
    assert any(one.any() for one in of_click), "through the product"


def test_attention_of_aitm_is_over_what_is_told_and_its_own(schema, batch):
    model = made("aitm", schema, batch)
    chain = model.mix.branches["ads"].chain
    _z, share = chain(torch.randn(5, 3, 12))
    assert share.shape == (5, 2, 2)
    torch.testing.assert_close(share.sum(2), torch.ones(5, 2))
    assert "chained_conversion" in run(model, batch).layers


def test_the_order_of_a_chain_can_be_said(schema, batch):
    model = made("aitm", schema, batch, order=("conversion", "click"))
    moved = changed_tasks(
        model,
        batch,
        lambda: [
            one.data.add_(0.3)
            for name, one in model.named_parameters()
            if ".experts.expert_conversion_" in name
        ],
    )
    assert moved == {"conversion", "click"}


def test_stem_al_by_name_teaches_one_way(schema, batch):
    model = made("stem_al", schema, batch, main=("click", "conversion"))
    for task in ("click", "conversion"):
        found = gradients(model, batch, alone(task))
        assert not any(one.any() for name, one in found.items() if belongs(name, "auxiliary"))
    found = gradients(model, batch, alone("long_view"))
    assert not any(one.any() for name, one in found.items() if belongs(name, "main"))
    moved = changed_tasks(model, batch, lambda: add_noise(model, "auxiliary"))
    assert moved == set(TASKS), "main tasks read what the auxiliary one knows"


@pytest.mark.parametrize("layers", [1, 2])
def test_stem_without_its_stop_gradient_is_the_same_forward_pass(schema, batch, layers):
    """And every loss trains every table. Bit for bit: see test_sets.py."""
    stopped = made("stem", schema, batch, layers=layers)
    free = made("stem", schema, batch, layers=layers, stop_gradient=False)
    free.load_state_dict(stopped.state_dict())
    one, other = run(free, batch).logits, run(stopped, batch).logits
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    found = gradients(free, batch, alone("click"))
    assert all(one.any() for name, one in found.items() if name.startswith("tables."))
    found = gradients(stopped, batch, alone("click"))
    still = [name for name in found if belongs(name, "conversion") or belongs(name, "long_view")]
    assert not any(found[name].any() for name in still)


def test_what_it_writes_is_a_config_that_no_longer_names_a_kind():
    found = expand_multitask(config_of("ple"), tasks=TASKS)
    assert found.multitask == MultitaskConfig()
    assert expand_multitask(found, tasks=TASKS) == found
    assert found.reads["click"] == [
        "expert_click_1", "expert_click_2", "expert_shared_1", "expert_shared_2", "expert_shared_3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sets": {"main": TableSet()}}, "model.multitask.kind=mmoe writes model.sets, reads"),
        ({"mix": MixConfig(layers=2)}, "model.multitask.kind=mmoe writes model.sets, reads"),
        ({"mix": MixConfig(merge=MergeConfig(kind="gate"))}, "model.multitask.kind=mmoe writes"),
        ({"heads": HeadConfig(given={"conversion": "click"})}, "model.multitask.kind=mmoe writes"),
    ],
)
def test_what_a_kind_writes_cannot_be_set_beside_it(change, sentence):
    with pytest.raises(UserError, match=sentence):
        expand_multitask(replace(config_of("mmoe"), **change), tasks=TASKS)


@pytest.mark.parametrize(
    ("kind", "words", "tasks", "sentence"),
    [
        ("aitm", {"order": ("click", "share")}, TASKS, "names task share; the tasks are click, l"),
        ("stem", {}, ("click",), "needs two tasks or more, none called shared or main; the tasks"),
        ("stem", {}, ("click", "shared"), "needs two tasks or more, none called shared or main"),
        ("stem_al", {}, TASKS, "kind=stem_al needs main tasks, and others beside them"),
        ("stem_al", {"main": TASKS}, TASKS, "kind=stem_al needs main tasks, and others beside"),
    ],
)
def test_tasks_that_do_not_go_with_a_kind_are_refused(kind, words, tasks, sentence):
    with pytest.raises(UserError, match=sentence):
        expand_multitask(config_of(kind, **words), tasks=tasks)


@pytest.mark.parametrize("words", [{"layers": 0}, {"shared_experts": 0}, {"task_experts": 0}])
def test_counts_below_one_are_refused(words):
    with pytest.raises(ValueError, match="must be at least 1"):
        MultitaskConfig(kind="stem", **words)


@pytest.mark.parametrize("kind", ["shared_bottom", "stem_al"])
def test_kinds_of_one_layer_refuse_two(kind):
    with pytest.raises(ValueError, match=f"model.multitask.kind={kind} has one layer of experts"):
        MultitaskConfig(kind=kind, layers=2)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"dim": 8}, "model.multitask.dim is set and kind is not; name a kind"),
        ({"kind": "mmoe", "stop_gradient": False}, "stop_gradient is read by stem and stem_al alo"),
        ({"kind": "ple", "order": ("click",)}, "order is read by esmm and aitm alone, kind is ple"),
        ({"kind": "stem", "main": ("click",)}, "main is read by stem_al alone, kind is stem"),
        ({"kind": "stem", "dims": (4, 8)}, "dims is read by ame alone, kind is stem"),
    ],
)
def test_settings_that_nobody_would_read_are_refused(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        MultitaskConfig(**words)


def test_gates_that_add_inputs_of_two_widths_are_refused(schema, batch):
    config = expand_multitask(config_of("me_mmoe"), tasks=TASKS)
    wide = config.sets | {"set_1": TableSet(dim=16)}
    narrow_tower = replace(config, sets=wide, tower=replace(TOWER, rep_dim=0))
    with pytest.raises(UserError, match=r"merge\.gate_input=sum adds inputs of \d+ and \d+ col"):
        build(schema, narrow_tower, batch)


def test_one_gate_of_tasks_that_read_different_experts_is_refused(schema, batch):
    config = expand_multitask(config_of("omoe"), tasks=TASKS)
    with pytest.raises(UserError, match="one gate for all tasks, which here read or train other"):
        build(schema, replace(config, reads={"click": ["expert_1"]}), batch)
