"""The cross network against loops over its numbers."""

import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.nn.interactions.dcnv2 import CrossNetwork


def cross_by_loops(layers, start):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l; return x_1 ... x_L."""
    x, outputs = start, []
    for layer in layers:
        inner = [
            sum(w * value for w, value in zip(weights, x, strict=True)) + bias
            for weights, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ]
        x = [first * one + value for first, one, value in zip(start, inner, x, strict=True)]
        outputs.append(x)
    return outputs


def test_every_layer_is_the_formula():
    torch.manual_seed(0)
    cross, x_BW = CrossNetwork(4, layers=3).double(), torch.randn(5, 4, dtype=torch.float64)
    found = cross(x_BW)
    assert len(found) == 3
    for row in range(5):
        wanted = cross_by_loops(cross.layers, x_BW[row].tolist())
        for one, values in zip(found, wanted, strict=True):
            torch.testing.assert_close(one[row], torch.tensor(values, dtype=torch.float64))


def test_zero_weights_are_the_identity_and_no_layers_give_nothing():
    cross, x_BW = CrossNetwork(6, layers=2), torch.randn(3, 6)
    for parameter in cross.parameters():
        torch.nn.init.zeros_(parameter)
    assert all(torch.equal(one, x_BW) for one in cross(x_BW))
    assert CrossNetwork(6, layers=0)(x_BW) == []


def test_low_rank_is_full_rank_with_the_product_of_its_factors():
    torch.manual_seed(0)
    low, full = CrossNetwork(6, layers=2, rank=2).double(), CrossNetwork(6, layers=2).double()
    for (inner, outer), layer in zip(low.layers, full.layers, strict=True):
        layer.weight.data, layer.bias.data = outer.weight.data @ inner.weight.data, outer.bias.data
        assert torch.linalg.matrix_rank(layer.weight) == 2
    x_BW = torch.randn(3, 6, dtype=torch.float64)
    for found, wanted in zip(low(x_BW), full(x_BW), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    count = {one: sum(p.numel() for p in one.parameters()) for one in (low, full)}
    assert (count[low], count[full]) == (2 * (2 * 6 * 2 + 6), 2 * (36 + 6))


@pytest.mark.parametrize("rank", [0, 5])
def test_an_odd_width_is_the_formula_too(rank):
    """Above 64, columns of zeros are added inside, and none of them is seen."""
    torch.manual_seed(0)
    cross = CrossNetwork(70, layers=2, rank=rank).double()
    x_BW = torch.randn(4, 70, dtype=torch.float64, requires_grad=True)
    wanted = x_BW
    for layer, found in zip(cross.layers, cross(x_BW), strict=True):
        wanted = x_BW * layer(wanted) + wanted
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    inputs = [x_BW, *cross.parameters()]
    mine = torch.autograd.grad(cross(x_BW)[-1].square().sum(), inputs)
    other = torch.autograd.grad(wanted.square().sum(), inputs)
    for one, another in zip(mine, other, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-10, atol=1e-10)


def test_full_rank_parameters_keep_their_names():
    names = [name for name, _ in CrossNetwork(4, layers=2).named_parameters()]
    assert names == ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]


@pytest.mark.parametrize("rank", [6, 7])
def test_a_rank_that_is_not_low_is_told(rank):
    with pytest.raises(UserError, match=f"rank {rank} on 6 inputs"):
        CrossNetwork(6, layers=2, rank=rank)
