"""Jagged values to blocks and to sums, against loops."""

import pytest
import torch

from lfm4ads.nn.sequences import bag_sums, to_padded

LENGTHS = [
    [2, 0, 3, 1],
    [0, 0, 3, 0],
    [1, 1, 1, 1],
    [0, 2, 1, 1],  # as many values as rows, yet not one each
    [3, 3, 3, 3],
    [0, 0],
    [],
]


def jagged(lengths, dtype=torch.float64):
    return torch.randn(sum(lengths), 5, dtype=dtype, requires_grad=True)


def rows_of(values, lengths):
    return torch.split(values, lengths) if lengths else []


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_padding_is_the_loop(lengths, kind):
    values = jagged(lengths)
    padded = to_padded(values, torch.tensor(lengths, dtype=kind), 3)
    wanted = torch.zeros(len(lengths), 3, 5, dtype=torch.float64)
    for row, part in enumerate(rows_of(values, lengths)):
        wanted[row, : len(part)] = part
    assert torch.equal(padded, wanted)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_sums_are_the_loop(lengths, kind):
    values = jagged(lengths)
    sums = bag_sums(values, torch.tensor(lengths, dtype=kind))
    wanted = [part.sum(0) for part in rows_of(values, lengths)]
    wanted = torch.stack(wanted) if wanted else torch.zeros(0, 5, dtype=torch.float64)
    torch.testing.assert_close(sums, wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("lengths", LENGTHS[:5])
def test_gradients_are_those_of_finite_differences(lengths):
    values, counts = jagged(lengths), torch.tensor(lengths)
    assert torch.autograd.gradcheck(lambda one: to_padded(one, counts, 3), [values])
    assert torch.autograd.gradcheck(lambda one: bag_sums(one, counts), [values])


def test_one_value_a_row_is_not_copied():
    values = jagged([1, 1, 1])
    assert bag_sums(values, torch.tensor([1, 1, 1])) is values


def test_a_row_longer_than_the_block_does_not_run_into_the_next():
    with pytest.raises(AssertionError):
        to_padded(jagged([4, 1]), torch.tensor([4, 1]), 3)
