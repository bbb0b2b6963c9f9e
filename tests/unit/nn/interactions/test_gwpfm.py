"""The group-wise part-aware machine against loops over pairs of fields, and its two limits."""

import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.nn.interactions.ffm import Ffm
from lfm4ads.nn.interactions.fm import Fm, WeightedFm
from lfm4ads.nn.interactions.gwpfm import GwPfm
from tests.unit.nn.interactions.fields import (
    assert_equal,
    by_pairs,
    differ,
    draw,
    draw_weights,
    make_layout,
)

GROUPS = (0, 1, 2, 1, 0, 1)  # one group of one field
LAYOUT = make_layout(6, dim=6, groups=GROUPS)


def entry(a, b, *, groups):
    """Place of r_ab among the weights: all r_aa, then r_01, r_02, r_12, r_03, ..."""
    low, high = min(a, b), max(a, b)
    return a if a == b else groups + high * (high - 1) // 2 + low


def gwpfm_by_loops(x, layout, *, weight):
    groups = layout.groups
    num_groups = len(set(groups))
    dim = layout.dims[0] // num_groups

    def part(v, field, group):
        return v[field][group * dim : (group + 1) * dim]

    def term(v, i, j, _):
        a, b = groups[i], groups[j]
        return weight[entry(a, b, groups=num_groups)] * part(v, i, b) * part(v, j, a)

    return by_pairs(x, layout, term=term)


@pytest.mark.parametrize("groups", [GROUPS, (0, 0, 0), (2, 1, 0), (0, 0, 1, 1)])
def test_the_fast_form_is_the_sum_over_pairs(groups):
    layout = make_layout(len(groups), dim=2 * len(set(groups)), groups=groups)
    x, gwpfm = draw(layout), draw_weights(GwPfm(layout))
    assert gwpfm.width == 2
    assert_equal(gwpfm(x)[0], gwpfm_by_loops(x, layout, weight=gwpfm.weight))


def test_weights_are_symmetric_and_start_at_one():
    gwpfm = GwPfm(LAYOUT)
    assert gwpfm.weight.shape == (6,)
    assert torch.equal(gwpfm.weight, torch.ones(6))
    x = draw(LAYOUT)
    wanted = gwpfm_by_loops(x, LAYOUT, weight=torch.ones(6, dtype=torch.float64))
    assert_equal(gwpfm.double()(x)[0], wanted)


def test_one_group_is_the_fm_times_its_weight():
    layout = make_layout(5, dim=3)
    x, gwpfm = draw(layout), draw_weights(GwPfm(layout))
    assert_equal(gwpfm(x)[0], gwpfm.weight[0] * Fm(layout)(x)[0])


def test_a_group_a_field_is_the_ffm():
    dim, fields = 2, 4
    layout = make_layout(fields, dim=dim * fields, groups=range(fields))
    x = draw(layout)
    others = torch.stack(
        [
            x.view(-1, fields, fields, dim)[:, i, [j for j in range(fields) if j != i]]
            for i in range(fields)
        ],
        dim=1,
    ).flatten(1)
    ffm = Ffm(make_layout(fields, dim=dim * (fields - 1)))(others)[0]
    assert_equal(GwPfm(layout).double()(x)[0], ffm)


def test_a_group_a_field_with_tied_parts_is_the_fwfm():
    narrow, wide = make_layout(4, dim=2), make_layout(4, dim=8, groups=range(4))
    x = draw(narrow)
    gwpfm, fwfm = draw_weights(GwPfm(wide)), WeightedFm(narrow, kind="fwfm").double()
    fwfm.weight.data = torch.stack(
        [gwpfm.weight.data[entry(i, j, groups=4)] for j in range(4) for i in range(j)]
    )
    tied = x.view(-1, 4, 1, 2).expand(-1, 4, 4, 2).flatten(1)
    assert_equal(gwpfm(tied)[0], fwfm(x)[0])


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 2), (0, 0), (1, 1)])
def test_a_weight_of_zero_removes_the_pairs_of_its_two_groups_only(a, b):
    x, gwpfm = draw(LAYOUT), GwPfm(LAYOUT).double()
    whole = gwpfm(x)[0].detach()
    gwpfm.weight.data[entry(a, b, groups=3)] = 0
    only = torch.zeros(6, dtype=torch.float64)
    only[entry(a, b, groups=3)] = 1
    removed = gwpfm_by_loops(x, LAYOUT, weight=only)
    assert differ(gwpfm(x)[0], whole)
    assert_equal(whole - gwpfm(x)[0], removed)


def test_parts_belong_to_groups_that_have_a_field():
    sparse = make_layout(6, dim=6, groups=[{0: 1, 1: 4, 2: 9}[group] for group in GROUPS])
    x = draw(LAYOUT)
    assert torch.equal(GwPfm(sparse).double()(x)[0], GwPfm(LAYOUT).double()(x)[0])


def test_a_width_that_the_groups_do_not_divide_is_told():
    with pytest.raises(UserError, match=r"3 does not divide the fields' width 8.*multiple of 3"):
        GwPfm(make_layout(6, dim=8, groups=GROUPS))


def test_a_group_of_one_field_gives_exactly_nothing_to_its_own_weight():
    x, gwpfm = draw(LAYOUT, rows=1_000).float(), GwPfm(LAYOUT)
    gwpfm(x)[0].square().sum().backward()
    assert gwpfm.weight.grad.ne(0).tolist() == [True, True, False, True, True, True]
