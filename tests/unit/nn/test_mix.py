"""The mix tower: experts on their own table set, and rows routed to the branch of their domain."""

import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.nn.access import plan_access
from lfm4ads.nn.branch import MixConfig
from lfm4ads.nn.experts import ExpertConfig, MergeConfig
from lfm4ads.nn.interactions.config import InteractionConfig
from lfm4ads.nn.mix import MixTower, SetLayout
from tests.unit.nn.merging import merged

DOMAINS = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0, 0])
LAYOUTS = {
    "main": SetLayout(user=(("user_0", 2), ("user_1", 2)), item=(("item_0", 3),)),
    "wide": SetLayout(user=(("user_0", 4),), item=(("item_0", 4),), pair=(("recently", 4),)),
}
WIDTHS = (8, 7, 4)
"""Of UR, IR and the pair fields of both sets."""
EXPERTS = {
    "cross": ExpertConfig(interaction=InteractionConfig(layers=2), hidden=(6, 5)),
    "fm": ExpertConfig(tables="wide", interaction=InteractionConfig(kind="fm"), hidden=(5,)),
}


def build(
    merge="gate",
    *,
    streams=("",),
    experts=EXPERTS,
    layouts=LAYOUTS,
    domains=("content", "ads"),
    **options,
):
    config = MixConfig(
        experts=experts,
        merge=MergeConfig(kind=merge, per_task=len(streams) > 1),
        hidden=(4, 3),
    )
    access = plan_access(config.all_experts, tasks=["a", "b"], streams=streams, reads={}, trains={})
    return MixTower(
        layouts,
        access,
        config=config,
        domains=domains,
        streams=streams,
        dropout=0.0,
        spectral=0.0,
        **options,
    )


@pytest.fixture(params=[("",), ("a", "b")], ids=len)
def streams(request):
    return request.param


@pytest.fixture(params=["mean", "learned", "gate"])
def mix(request, streams):
    torch.manual_seed(0)
    return build(request.param, streams=streams)


@pytest.fixture
def inputs():
    return [torch.randn(9, width) for width in WIDTHS]


def run(mix, inputs, domains=DOMAINS):
    ur, ir, pair = inputs
    return mix(ur, ir, domains, pair)


def fields_of(inputs):
    """Each set's fields, cut out by hand."""
    ur, ir, pair = inputs
    return {
        "main": torch.cat([ur[:, :4], ir[:, :3]], dim=1),
        "wide": torch.cat([ur[:, 4:], ir[:, 3:], pair], dim=1),
    }


def test_layers_are_named_from_input_to_output(mix, inputs, streams):
    layers = run(mix, inputs).layers
    wanted = {
        "towers": 15, "cross_cross_1": 7, "cross_cross_2": 7, "fm_fm": 4,
        "cross_mlp_1": 6, "cross_mlp_2": 5, "fm_mlp_1": 5,
    }  # fmt: skip
    for suffix in [f"_{one}" if one else "" for one in streams]:
        wanted |= {f"merged{suffix}": 5, f"top_1{suffix}": 4, f"top_2{suffix}": 3}
    assert {name: one.shape[1] for name, one in layers.items()} == wanted == mix.layer_dims
    assert list(layers) == list(mix.layer_dims)
    assert mix.width == 3


def test_every_expert_reads_the_fields_of_its_set(mix, inputs):
    layers = run(mix, inputs).layers
    assert torch.equal(layers["towers"], torch.cat(inputs[:2], dim=1))
    for name, table_set in (("cross", "main"), ("fm", "wide")):
        crossed = mix.interactions[name](fields_of(inputs)[table_set])
        names = [one for one in layers if one.startswith(name) and "_mlp_" not in one]
        for one, wanted in zip(names, crossed, strict=True):
            assert torch.equal(layers[one], wanted)
    fields = fields_of(inputs)["wide"].unflatten(1, (3, 4)).unbind(1)
    u, i, p = fields
    torch.testing.assert_close(layers["fm_fm"], u * i + u * p + i * p)


def test_every_row_goes_through_its_own_branch_and_keeps_its_place(mix, inputs, streams):
    found = run(mix, inputs)
    fields = fields_of(inputs)
    for row, domain in enumerate(DOMAINS.tolist()):
        one = slice(row, row + 1)
        branch = mix.branches[("content", "ads")[domain]]
        outputs = {
            name: branch.experts[name](found.layers[layer][one])
            for name, layer in (("cross", "cross_cross_2"), ("fm", "fm_fm"))
        }
        h = torch.stack([hidden[-1].relu() for hidden in outputs.values()], dim=1)
        z, weights = merged(branch.merge, h, [fields["main"][one], fields["wide"][one]])
        torch.testing.assert_close(found.weights[one], weights)
        torch.testing.assert_close(found.layers["cross_mlp_2"][one], outputs["cross"][1])
        for place, stream in enumerate(streams):
            suffix = f"_{stream}" if stream else ""
            top = branch.tops[place](z[:, place])
            torch.testing.assert_close(found.layers[f"merged{suffix}"][one], z[:, place])
            torch.testing.assert_close(found.layers[f"top_1{suffix}"][one], top[0])
            last = found.top[one] if len(streams) == 1 else found.top[one, place]
            torch.testing.assert_close(last, top[1])


def test_without_pair_fields_they_count_as_zeros(mix, inputs):
    ur, ir, pair = inputs
    one = mix(ur, ir, DOMAINS)
    other = mix(ur, ir, DOMAINS, torch.zeros_like(pair))
    assert torch.equal(one.top, other.top)
    assert not torch.equal(one.top, run(mix, inputs).top)


@pytest.mark.parametrize(("domain", "own", "other"), [(0, "content", "ads"), (1, "ads", "content")])
def test_rows_of_a_domain_give_no_gradient_to_the_other_branch(mix, inputs, domain, own, other):
    rows = run(mix, inputs).top[domain == DOMAINS]
    rows.square().sum().backward()
    for parameter in mix.branches[other].parameters():
        assert parameter.grad is None or torch.equal(parameter.grad, torch.zeros_like(parameter))
    assert all(one.grad.abs().sum() > 0 for one in mix.branches[own].parameters())
    assert all(one.grad.abs().sum() > 0 for one in mix.interactions.parameters())


@pytest.mark.parametrize("domain", [0, 1])
def test_a_domain_without_rows_is_no_problem(mix, inputs, domain):
    found = run(mix, inputs, torch.full((9,), domain))
    alone = build(
        mix.branches["ads"].merge._kind, streams=mix.branches["ads"]._streams, domains=("only",)
    )
    branch = mix.branches[("content", "ads")[domain]]
    alone.branches["only"].load_state_dict(branch.state_dict())
    alone.interactions.load_state_dict(mix.interactions.state_dict())
    wanted = run(alone, inputs, torch.zeros(9, dtype=torch.int64))
    assert torch.equal(found.top, wanted.top)
    found.top.sum().backward()
    # Every parameter has a gradient even so: ranks with other rows wait for it.
    assert all(one.grad is not None for one in mix.parameters())


def test_one_cross_network_is_the_default(inputs):
    config = MixConfig()
    assert list(config.all_experts) == ["cross"]
    assert config.all_experts["cross"].interaction.kind == "dcnv2"
    assert config.merged_width == 128
    mix = build("mean", experts={}, layouts={"main": LAYOUTS["main"]})
    top = mix(inputs[0][:, :4], inputs[1][:, :3], DOMAINS)
    assert torch.equal(top.weights, torch.ones(9, 1, 1))


def test_pairs_of_sides_are_told_apart_by_group():
    fields = LAYOUTS["wide"].fields
    assert fields.names == ("user_0", "item_0", "recently")
    assert fields.groups == (0, 1, 2)
    assert LAYOUTS["main"].fields.groups == (0, 0, 1)
    assert LAYOUTS["main"].widths == (4, 3, 0)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"hidden": ()}, r"mix\.hidden needs at least one layer"),
        (
            {"experts": {"a": ExpertConfig(hidden=(4,)), "b": ExpertConfig(hidden=(8, 5))}},
            r"experts are merged, so their last layers must be equal: \{'a': 4, 'b': 5\}",
        ),
    ],
)
def test_impossible_configs_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        MixConfig(**wrong)


@pytest.mark.parametrize(
    ("experts", "sentence"),
    [
        (
            {**EXPERTS, "far": ExpertConfig(tables="far", hidden=(5,))},
            r"expert far reads table set far; model\.sets has main, wide",
        ),
        (
            {"cross": EXPERTS["cross"]},
            "no expert reads table set wide; give it one or remove the set",
        ),
    ],
)
def test_experts_and_sets_that_do_not_meet_are_refused(experts, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        build(experts=experts)
    assert caught.value.everywhere
