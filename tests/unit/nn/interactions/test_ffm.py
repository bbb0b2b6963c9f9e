"""The field-aware machine against loops over pairs of fields."""

import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.nn.interactions.ffm import Ffm
from lfm4ads.nn.interactions.fm import Fm
from tests.unit.nn.interactions.fields import assert_equal, by_pairs, differ, draw, make_layout


def vector_for(v, field, partner, *, dim):
    """The vector that ``field`` keeps for ``partner``."""
    slot = [one for one in range(len(v)) if one != field].index(partner)
    return v[field][slot * dim : (slot + 1) * dim]


@pytest.mark.parametrize("num_fields", [2, 3, 5])
def test_a_pair_meets_in_the_vectors_for_each_other(num_fields):
    layout = make_layout(num_fields, dim=2 * (num_fields - 1))
    x, ffm = draw(layout), Ffm(layout)
    wanted = by_pairs(
        x,
        layout,
        term=lambda v, i, j, _: vector_for(v, i, j, dim=2) * vector_for(v, j, i, dim=2),
    )
    assert ffm.width == 2
    assert_equal(ffm(x)[0], wanted)


def test_tied_vectors_are_the_fm_and_untied_are_not():
    narrow, wide = make_layout(4, dim=2), make_layout(4, dim=6)
    x = draw(narrow)
    tied = x.view(-1, 4, 1, 2).expand(-1, 4, 3, 2).flatten(1)
    fm = Fm(narrow)(x)[0]
    assert_equal(Ffm(wide)(tied)[0], fm)
    untied = torch.cat([2 * tied[:, :2], tied[:, 2:]], dim=1)
    assert differ(Ffm(wide)(untied)[0], fm)


def test_a_width_that_the_other_fields_do_not_divide_is_told():
    with pytest.raises(UserError, match=r"3 does not divide the fields' width 8.*multiple of 3"):
        Ffm(make_layout(4, dim=8))
