"""Linear maps of odd widths are those of torch."""

import pytest
import torch
import torch.nn.functional as F

from lfm4ads.nn.aligned import aligned_linear, spare_columns


@pytest.mark.parametrize("width", [3, 64, 65, 79, 80, 429])
def test_it_is_linear_with_its_gradients(width):
    torch.manual_seed(0)
    x_BW = torch.randn(5, width, dtype=torch.float64, requires_grad=True)
    weight_HW = torch.randn(7, width, dtype=torch.float64, requires_grad=True)
    bias_H = torch.randn(7, dtype=torch.float64, requires_grad=True)
    found, wanted = (one(x_BW, weight_HW, bias_H) for one in (aligned_linear, F.linear))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    inputs = (x_BW, weight_HW, bias_H)
    for mine, other in zip(
        torch.autograd.grad(found.square().sum(), inputs),
        torch.autograd.grad(wanted.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


def test_large_odd_widths_are_made_multiples_of_eight():
    assert [spare_columns(width) for width in (3, 64, 65, 80, 429)] == [0, 0, 7, 0, 3]
