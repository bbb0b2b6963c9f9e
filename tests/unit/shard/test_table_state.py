"""Row accumulators of other column blocks are means by width, and equal ones stay as they are."""

import pytest
import torch

from lfm4ads.shard.table_state import Conversion, _overlaps
from lfm4ads.shard.whole import Part, make_whole, map_tensors, row_parts, whole_shapes


def reference(columns, widths, values):
    """Mean over columns one by one."""
    of_column = [value for value, width in zip(values, widths, strict=True) for _ in range(width)]
    some = [of_column[column] for column in columns]
    return sum(some) / len(some)


@pytest.mark.parametrize(
    ("columns", "widths"),
    [
        (range(24), [24]),
        (range(12), [8, 8, 8]),
        (range(12, 24), [8, 8, 8]),
        (range(8, 16), [12, 12]),
        (range(24), [4, 8, 12]),
        (range(4, 20), [4, 8, 12]),
    ],
)
def test_the_mean_is_by_the_columns_shared(columns, widths):
    values = torch.rand(5, len(widths), dtype=torch.float64)
    overlaps = _overlaps(columns, widths)
    assert sum(overlaps.values()) == len(columns)
    weights = torch.tensor([overlaps.get(i, 0) for i in range(len(widths))], dtype=torch.float64)
    target = torch.zeros(5, dtype=torch.float64)
    Conversion(target, values, weights).apply()
    wanted = [reference(columns, widths, row) for row in values.tolist()]
    torch.testing.assert_close(target, torch.tensor(wanted, dtype=torch.float64))


def test_equal_accumulators_come_back_to_the_last_bit():
    value = torch.rand(1000) * torch.logspace(-12, 4, 1000)
    for widths in ([12, 12], [8, 8, 8], [4, 20], [28, 36]):
        target = torch.zeros(1000)
        read = value[:, None].expand(1000, len(widths)).contiguous()
        Conversion(target, read, torch.tensor(widths, dtype=torch.float64)).apply()
        assert torch.equal(target, value)


def test_a_whole_has_a_shape_parts_and_no_value():
    part = torch.arange(6.0).reshape(3, 2)
    whole = make_whole((9, 4), dtype=torch.float32, parts=[Part((3, 2), part)])
    rows = row_parts(torch.zeros(0, dtype=torch.int64), first_row=4, num_rows=9)
    assert rows.parts == []
    state = {"a": {"b": whole, "c": torch.ones(2)}, "d": rows}
    assert whole_shapes(state) == {"a.b": [9, 4], "a.c": [2], "d": [9]}
    changed = map_tensors(state, lambda name, tensor: tensor + len(name))
    assert torch.equal(changed["a"]["b"].parts[0].tensor, part + len("a.b#0"))
    assert torch.equal(changed["a"]["c"], torch.ones(2) + 3)
    assert torch.equal(part, torch.arange(6.0).reshape(3, 2)), "the first is as it was"
    assert repr(whole) == "Whole((9, 4): (3, 2) at (3, 2))"
    with pytest.raises(TypeError, match="on several ranks"):
        torch.add(whole, whole)
