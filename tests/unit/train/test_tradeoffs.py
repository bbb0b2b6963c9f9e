"""Weights from losses and inner products, against the papers' own steps on explicit gradients."""

from itertools import permutations, product

import numpy as np
import pytest
import torch

from lfm4ads.train.tradeoffs import (
    draw_orders,
    gradnorm_slope,
    pcgrad_weights,
    uncertainty_slope,
)


def projected(gradients, *, orders):
    """PCGrad's sum as its Algorithm 1 has it: one gradient after the other, vector by vector."""
    total = np.zeros_like(gradients[0])
    for own, others in zip(gradients, orders, strict=True):
        moved = own.copy()
        for other in others:
            inner = moved @ gradients[other]
            if inner < 0:
                moved = moved - inner / (gradients[other] @ gradients[other]) * gradients[other]
        total += moved
    return total


def all_orders(count):
    others = [permutations([one for one in range(count) if one != task]) for task in range(count)]
    return product(*others)


@pytest.mark.parametrize(("count", "draws"), [(2, 12), (3, 4), (4, 2)])
def test_pcgrad_is_its_loop_over_vectors_in_every_order(count, draws):
    rng = np.random.default_rng(count)
    answers = set()
    for _ in range(draws):
        gradients = rng.standard_normal((count, 3)) * [[10.0 ** (one - 1)] for one in range(count)]
        for orders in all_orders(count):
            weights = pcgrad_weights(gradients @ gradients.T, orders=orders)
            wanted = projected(gradients, orders=orders)
            np.testing.assert_allclose(weights @ gradients, wanted, rtol=1e-9, atol=1e-10)
            assert (weights >= 1).all()
            answers.add(tuple(weights.round(9)))
    assert len(answers) > 3, "some gradients conflict"
    assert len(answers) > 5 or count == 2, "the order matters from three tasks on"


def test_pcgrad_leaves_agreeing_and_missing_gradients_alone():
    gradients = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    weights = pcgrad_weights(gradients @ gradients.T, orders=draw_orders(3, step=0))
    np.testing.assert_array_equal(weights, 1.0)


def test_what_pcgrad_makes_of_two_tasks_harms_neither():
    large, small = np.array([10.0, 0.0]), np.array([-1.0, 0.5])
    gradients = np.stack([large, small])
    weights = pcgrad_weights(gradients @ gradients.T, orders=[[1], [0]])
    assert (large + small) @ small < 0, "their sum does"
    assert (weights @ gradients) @ small > 0
    assert (weights @ gradients) @ large > 0


def test_orders_are_random_and_the_same_again():
    drawn = [draw_orders(4, step=step) for step in range(20)]
    assert drawn == [draw_orders(4, step=step) for step in range(20)]
    assert len({str(one) for one in drawn}) > 15
    for orders in drawn:
        assert [sorted([task, *others]) for task, others in enumerate(orders)] == [[0, 1, 2, 3]] * 4


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_gradnorms_slope_is_that_of_its_loss(alpha):
    rng = np.random.default_rng(1)
    norm, rate = rng.uniform(0.1, 3, 4), rng.uniform(0.2, 1, 4)
    weight = torch.tensor(rng.uniform(0.5, 2, 4), requires_grad=True)
    size = weight * torch.tensor(norm)
    target = (size.mean() * torch.tensor(rate / rate.mean()) ** alpha).detach()
    (wanted,) = torch.autograd.grad((size - target).abs().sum(), weight)
    found = gradnorm_slope(weight.detach().numpy(), norm_N=norm, rate_N=rate, alpha=alpha)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-12)
    assert len({*np.sign(found)}) == 2


def test_gradnorm_has_nothing_to_do_for_one_task_or_none():
    for count in (0, 1):
        ones = np.ones(count)
        assert not gradnorm_slope(ones, norm_N=3 * ones, rate_N=ones, alpha=1.5).any()


def test_the_uncertaintys_slope_is_that_of_its_loss_and_ends_where_the_paper_says():
    loss = np.array([0.01, 0.3, 2.0])
    variance = torch.tensor([0.4, -1.0, 0.0], dtype=torch.float64, requires_grad=True)
    joint = (torch.exp(-variance) * torch.tensor(loss) + variance / 2).sum()
    (wanted,) = torch.autograd.grad(joint, variance)
    found = uncertainty_slope(variance.detach().numpy(), loss_N=loss)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-12)
    np.testing.assert_allclose(uncertainty_slope(np.log(2 * loss), loss_N=loss), 0, atol=1e-15)
