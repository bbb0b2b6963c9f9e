"""A table crossed with few rows collapses: the toy of arXiv 2310.04400, Figure 4 and appendix."""

import pytest
import torch
import torch.nn.functional as F

from lfm4ads.analysis.spectrum import information_abundance
from lfm4ads.nn.interactions.fm import Fm
from lfm4ads.nn.interactions.layout import FieldLayout

DIM, ROWS = 10, 100  # the paper states no width; rows are those of tables 1 and 2


def train_first_table(seed, *, third_rows, steps, rate):
    """Return table 1 after gradient descent on coin flips, all pairs of rows 1 and 2 a step."""
    draws = torch.Generator().manual_seed(seed)
    first, second, third = (
        torch.randn(rows, DIM, generator=draws) for rows in (ROWS, ROWS, third_rows)
    )
    chosen = torch.randint(third_rows, (ROWS * ROWS,), generator=draws)
    label = torch.randint(2, (ROWS * ROWS,), generator=draws).float()
    partners = torch.cat([second.repeat(ROWS, 1), third[chosen]], dim=1)
    fm = Fm(FieldLayout(("first", "second", "third"), (DIM,) * 3, (0,) * 3))
    first.requires_grad_()
    for _ in range(steps):
        fields = torch.cat([first.repeat_interleave(ROWS, dim=0), partners], dim=1)
        loss = F.binary_cross_entropy_with_logits(fm(fields)[-1].sum(1), label)
        (gradient,) = torch.autograd.grad(loss, first)
        with torch.no_grad():
            first -= rate * gradient
    return first.detach().numpy()


def gap(seed, *, steps, rate):
    """Return by how much table 1 is richer beside a third table of 100 rows than beside 3."""
    rich, poor = (
        information_abundance(
            train_first_table(seed, third_rows=third_rows, steps=steps, rate=rate)
        )
        for third_rows in (100, 3)
    )
    return rich - poor


@pytest.mark.parametrize("seed", range(3))
def test_few_rows_in_a_partner_collapse_a_table(seed):
    """A hundredth of the steps at a hundred times the rate: as far along the same path."""
    assert gap(seed, steps=0, rate=100.0) < 0.5  # before training there is none
    assert gap(seed, steps=50, rate=100.0) > 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
def test_few_rows_in_a_partner_collapse_a_table_as_published(seed):
    """The published 5,000 steps at rate 1; half a minute a seed, three on a busy machine."""
    assert gap(seed, steps=5_000, rate=1.0) > 1
