"""What every interaction has in common: its signature, its gradients, what it does not build."""

import typing

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lfm4ads.core.errors import UserError
from lfm4ads.nn.interactions.build import build_interaction
from lfm4ads.nn.interactions.config import InteractionConfig, InteractionKind
from lfm4ads.nn.interactions.layout import FieldLayout
from tests.unit.nn.interactions.fields import draw, make_layout

GROUPS = (0, 1, 2, 1)
LAYOUT = make_layout(4, dim=6, groups=GROUPS)
LAYERS = {  # names and dims for LAYOUT
    ("fm",): (["fm"], [6]),
    ("fwfm",): (["fwfm"], [6]),
    ("fmfm",): (["fmfm"], [6]),
    ("fmfm", "diagonal"): (["fmfm"], [6]),
    ("ffm",): (["ffm"], [2]),
    ("ipnn",): (["ipnn"], [30]),
    ("ipnn", "bare"): (["ipnn"], [6]),
    ("flat",): (["flat"], [24]),
    ("dcnv2",): (["cross_1", "cross_2", "cross_3"], [24, 24, 24]),
    ("dcnv2", "low"): (["cross_1", "cross_2"], [24, 24]),
    ("gwpfm",): (["gwpfm"], [2]),
}
SETTINGS = {
    "diagonal": {"diagonal": True},
    "bare": {"raw": False},
    "low": {"layers": 2, "rank": 3},
}
EQUAL_DIMS = ["fm", "fwfm", "fmfm", "ffm", "ipnn", "gwpfm"]


def build(kind, option=None, *, layout=LAYOUT):
    torch.manual_seed(0)
    config = InteractionConfig(kind=kind, **SETTINGS.get(option, {}))
    return build_interaction(config, layout)


def test_every_kind_is_tried_here():
    assert {case[0] for case in LAYERS} == set(typing.get_args(InteractionKind))


@pytest.mark.parametrize("case", LAYERS, ids="-".join)
def test_layers_are_as_described(case):
    module, (names, dims) = build(*case), LAYERS[case]
    assert (module.layer_names, module.layer_dims, module.width) == (names, dims, dims[-1])
    outputs = module(torch.randn(7, 24))
    assert [tuple(output.shape) for output in outputs] == [(7, dim) for dim in dims]


@pytest.mark.parametrize("case", LAYERS, ids="-".join)
def test_gradients_reach_every_parameter_and_every_input(case):
    module, x = build(*case).double(), draw(LAYOUT).requires_grad_()
    module(x)[-1].square().sum().backward()
    for name, parameter in module.named_parameters():
        if case == ("gwpfm",) and name == "weight":
            # r_00 and r_22 have no pair: groups 0 and 2 have one field each.
            assert parameter.grad.ne(0).tolist() == [False, True, False, True, True, True]
        else:
            assert parameter.grad.ne(0).all(), name
    unread = torch.zeros(4, 6, dtype=torch.bool)
    if case == ("gwpfm",):
        unread[0, 0:2] = unread[2, 4:6] = True  # parts of a lone field for its own group
    assert torch.equal(x.grad.eq(0), unread.flatten().expand_as(x))


@pytest.mark.parametrize("case", LAYERS, ids="-".join)
def test_gradients_are_right(case):
    module, x = build(*case).double(), draw(LAYOUT, rows=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(module(x)), (x,))


def test_flat_passes_the_fields_on():
    x = torch.randn(3, 24)
    assert torch.equal(build("flat")(x)[0], x)


@pytest.mark.parametrize("kind", EQUAL_DIMS)
def test_unequal_dims_are_told_where_they_matter(kind):
    layout = FieldLayout(("user", "item"), (4, 8), (0, 1))
    with pytest.raises(UserError, match=f"interaction {kind} .* user has 4 and item has 8"):
        build(kind, layout=layout)


@pytest.mark.parametrize("kind", ["flat", "dcnv2"])
def test_unequal_dims_are_no_matter_side_by_side(kind):
    layout = FieldLayout(("user", "item"), (4, 8), (0, 1))
    assert build(kind, layout=layout)(torch.randn(3, 12))[-1].shape == (3, 12)


class Watch(TorchDispatchMode):
    """Counts operations and remembers the size of the largest tensor any of them returned."""

    def __init__(self):
        super().__init__()
        self.operations, self.largest = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        returned = func(*args, **(kwargs or {}))
        self.operations += 1
        found = returned if isinstance(returned, tuple | list) else [returned]
        sizes = [one.numel() for one in found if isinstance(one, torch.Tensor)]
        self.largest = max([self.largest, *sizes])
        return returned


def watch(call, x):
    with Watch() as seen:
        call(x)
    return seen


@pytest.mark.parametrize("case", LAYERS, ids="-".join)
def test_no_tensor_of_pairs_by_width_is_built(case):
    layout = make_layout(9, dim=24, groups=[index % 3 for index in range(9)])
    x = draw(layout, rows=400)
    module = build(*case, layout=layout).double()
    assert watch(module, x).largest <= max(x.numel(), module.width * len(x))


def test_a_tensor_of_pairs_by_width_would_be_seen():
    x = draw(make_layout(9, dim=24), rows=200)
    v = x.view(200, 9, 24)
    assert watch(lambda _: v.unsqueeze(1) * v.unsqueeze(2), x).largest == 9 * x.numel()


@pytest.mark.parametrize("kind", ["fm", "fwfm", "ffm", "ipnn", "gwpfm"])
def test_work_is_no_loop_over_fields(kind):
    few, many = (make_layout(n, dim=30, groups=[i % 2 for i in range(n)]) for n in (4, 16))
    counts = [watch(build(kind, layout=one).double(), draw(one)).operations for one in (few, many)]
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("case", LAYERS, ids="-".join)
def test_no_rows_are_no_problem(case):
    module, x = build(*case), torch.zeros(0, 24, requires_grad=True)
    output = module(x)[-1]
    assert output.shape == (0, module.width)
    output.sum().backward()
    # Every parameter has a gradient even so: ranks with other rows wait for it.
    assert all(torch.equal(one.grad, torch.zeros_like(one)) for one in module.parameters())
