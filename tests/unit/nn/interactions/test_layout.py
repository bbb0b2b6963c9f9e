"""What a layout says of its fields."""

import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.nn.interactions.layout import FieldLayout, pair_indices


def test_width_and_numbers():
    layout = FieldLayout(("a", "b", "c"), (4, 4, 4), (0, 1, 0))
    assert (layout.width, layout.num_fields, layout.num_pairs) == (12, 3, 3)
    assert layout.equal_dim("fm") == 4


def test_unequal_dims_name_two_fields_and_the_fix():
    layout = FieldLayout(("user", "age", "item"), (8, 8, 16), (0, 0, 1))
    assert layout.width == 32
    with pytest.raises(UserError) as caught:
        layout.equal_dim("fwfm")
    assert str(caught.value) == (
        "interaction fwfm needs fields of equal width, but user has 8 and item has 16: give the "
        "table set one dim, and fields.number.dim and fields.vector.dim the same, or take flat or "
        "dcnv2"
    )
    assert caught.value.everywhere


@pytest.mark.parametrize(("names", "told"), [(("user",), r"\(user\)"), ((), r"\(none\)")])
def test_fewer_than_two_fields_have_no_pair(names, told):
    layout = FieldLayout(names, (8,) * len(names), (0,) * len(names))
    with pytest.raises(UserError, match=f"fewer than two {told}"):
        layout.equal_dim("fm")


def test_tuples_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="2 fields, got 2 dims and 1 groups"):
        FieldLayout(("a", "b"), (4, 4), (0,))


def test_pairs_with_the_same_second_field_are_neighbours():
    first, second = pair_indices(4)
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    assert pairs == [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
