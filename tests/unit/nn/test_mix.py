"""The mix tower routes rows to the branch of their domain."""

import pytest
import torch

from lfm4ads.nn.mix import MixTower, layer_names, tower_input

DOMAINS = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0, 0])
WIDTH, HIDDEN = 6, (5, 4)


@pytest.fixture
def mix():
    torch.manual_seed(0)
    return MixTower(
        WIDTH, cross_layers=2, hidden=HIDDEN, domains=["content", "ads"], dropout=0.0
    ).double()


@pytest.fixture
def inputs():
    return torch.randn(9, WIDTH, dtype=torch.float64)


def test_layers_are_named_from_input_to_output(mix, inputs):
    layers = mix(inputs, DOMAINS)
    assert list(layers) == ["towers", "cross_1", "cross_2", "mlp_1", "mlp_2"]
    assert list(layers) == layer_names(cross_layers=2, mlp_layers=2)
    assert [one.shape[1] for one in layers.values()] == [6, 6, 6, 5, 4]
    assert mix.width == 4


def test_every_row_goes_through_its_own_branch_and_keeps_its_place(mix, inputs):
    layers = mix(inputs, DOMAINS)
    assert torch.equal(layers["towers"], inputs)
    crossed = mix.cross(inputs)
    for name, wanted in zip(("cross_1", "cross_2"), crossed, strict=True):
        assert torch.equal(layers[name], wanted)
    for row, domain in enumerate(DOMAINS.tolist()):
        branch = mix.branches[("content", "ads")[domain]]
        for position, wanted in enumerate(branch(crossed[-1][row : row + 1]), 1):
            torch.testing.assert_close(layers[f"mlp_{position}"][row : row + 1], wanted)


@pytest.mark.parametrize(("domain", "own", "other"), [(0, "content", "ads"), (1, "ads", "content")])
def test_rows_of_a_domain_give_no_gradient_to_the_other_branch(mix, inputs, domain, own, other):
    rows = mix(inputs, DOMAINS)["mlp_2"][domain == DOMAINS]
    rows.square().sum().backward()
    for parameter in mix.branches[other].parameters():
        assert parameter.grad is None or torch.equal(parameter.grad, torch.zeros_like(parameter))
    assert all(one.grad.abs().sum() > 0 for one in mix.branches[own].parameters())
    assert all(one.grad.abs().sum() > 0 for one in mix.cross.parameters())


@pytest.mark.parametrize("domain", [0, 1])
def test_a_domain_without_rows_is_no_problem(mix, inputs, domain):
    layers = mix(inputs, torch.full((9,), domain))
    branch = mix.branches[("content", "ads")[domain]]
    wanted = branch(mix.cross(inputs)[-1])
    for position in (1, 2):
        torch.testing.assert_close(layers[f"mlp_{position}"], wanted[position - 1])
    layers["mlp_2"].sum().backward()
    # Every parameter has a gradient even so: ranks with other rows wait for it.
    assert all(one.grad is not None for one in mix.parameters())


def test_no_cross_layers_leave_the_branches_on_the_towers(inputs):
    mix = MixTower(WIDTH, cross_layers=0, hidden=(3,), domains=["only"], dropout=0.0).double()
    layers = mix(inputs, torch.zeros(9, dtype=torch.int64))
    assert list(layers) == ["towers", "mlp_1"]
    torch.testing.assert_close(layers["mlp_1"], mix.branches["only"](inputs)[0])


def test_the_tower_input_is_both_sides_and_their_product():
    ur, ir = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [-7.0, 0.5]])
    wanted = [[1, 2, 5, 6, 5, 12], [3, 4, -7, 0.5, -21, 2]]
    assert tower_input(ur, ir).tolist() == wanted
