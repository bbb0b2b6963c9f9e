"""Inner products against a loop over pairs of fields."""

import pytest
import torch

from lfm4ads.nn.interactions.ipnn import Ipnn
from tests.unit.nn.interactions.fields import assert_equal, draw, make_layout, split

LAYOUT = make_layout(5, dim=3)


@pytest.fixture
def x():
    return draw(LAYOUT)


@pytest.fixture
def wanted(x):
    rows = [split(x_W, LAYOUT) for x_W in x]
    return torch.stack(
        [torch.stack([torch.dot(v[i], v[j]) for j in range(5) for i in range(j)]) for v in rows]
    )


def test_every_pair_keeps_its_inner_product(x, wanted):
    ipnn = Ipnn(LAYOUT, raw=False)
    assert ipnn.width == 10
    assert_equal(ipnn(x)[0], wanted)


def test_raw_puts_the_fields_before_the_products(x, wanted):
    ipnn = Ipnn(LAYOUT, raw=True)
    assert ipnn.width == 25
    assert torch.equal(ipnn(x)[0][:, :15], x)
    assert_equal(ipnn(x)[0][:, 15:], wanted)
