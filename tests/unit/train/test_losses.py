"""The masked loss against a loop over labels."""

import math

import pytest
import torch

from lfm4ads.train.losses import masked_bce
from tests.batches import pad


def bce_by_loops(logits, batch, columns):
    total = 0.0
    for row in range(len(batch)):
        for position, column in enumerate(columns):
            if batch.masks[row, column]:
                rate = 1 / (1 + math.exp(-logits[row, position].item()))
                happened = batch.labels[row, column].item()
                total -= math.log(rate if happened else 1 - rate)
    return total


@pytest.mark.parametrize("columns", [None, [0], [2, 0]])
def test_it_is_the_sum_over_labels_that_exist(batches, columns):
    logits = torch.randn(64, len(columns or range(3)), dtype=torch.float64)
    chosen = None if columns is None else torch.tensor(columns)
    found = masked_bce(logits, batches[0], columns=chosen)
    wanted = bce_by_loops(logits, batches[0], columns or range(3))
    assert found.item() == pytest.approx(wanted, rel=1e-6)


def test_masked_labels_give_no_gradient(batches):
    logits = torch.zeros(64, 3, requires_grad=True)
    masked_bce(logits, batches[0]).backward()
    assert torch.equal(logits.grad != 0, batches[0].masks > 0)
    assert 0 < batches[0].masks.mean() < 1


def test_padding_adds_nothing(batches):
    logits = torch.randn(69, 3)
    padded = masked_bce(logits, pad(batches[0], 5))
    assert padded.item() == pytest.approx(masked_bce(logits[:64], batches[0]).item())


def test_weights_are_factors_on_the_labels_losses(batches):
    logits = torch.randn(64, 3, requires_grad=True)
    weights = torch.rand(64, 3)
    (plain,) = torch.autograd.grad(masked_bce(logits, batches[0]), logits)
    weighted = masked_bce(logits, batches[0], weights_BT=weights)
    torch.testing.assert_close(torch.autograd.grad(weighted, logits)[0], plain * weights)
    chosen = torch.tensor([2, 0])
    value = masked_bce(logits[:, chosen], batches[0], columns=chosen, weights_BT=weights[:, chosen])
    without = torch.tensor([1.0, 0.0, 1.0])
    wanted = masked_bce(logits, batches[0], weights_BT=weights * without)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-5)
