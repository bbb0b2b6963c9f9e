"""The non-linear adapter of user and item representations."""

import numpy as np
import pytest
import torch

from lfm4ads.nn.adapter import NonLinearAdapter

USER, ITEM, HIDDEN = 6, 5, 16


def build(*, dropout=0.0):
    torch.manual_seed(0)
    return NonLinearAdapter(USER, ITEM, embedding_width=10, hidden=HIDDEN, top=4, dropout=dropout)


def sides(rows=9, dtype=torch.float32):
    return torch.randn(rows, USER, dtype=dtype), torch.randn(rows, ITEM, dtype=dtype)


@pytest.mark.parametrize("training", [True, False])
def test_it_is_exactly_the_identity_at_the_start(training):
    adapted = build(dropout=0.5).train(training)(*(1e3 * side for side in sides(32)))
    assert torch.equal(adapted.gate_BE, torch.ones(32, 10))
    assert torch.equal(adapted.top_BT, torch.zeros(32, 4))


def test_it_leaves_the_identity_with_the_first_gradient():
    adapter = build()
    adapted = adapter(*sides())
    (adapted.gate_BE.square().sum() + (adapted.top_BT - 1).square().sum()).backward()
    for layer in (adapter.gate, adapter.top):
        assert layer.weight.grad[:, :HIDDEN].abs().sum() > 0, "the joint half"
        assert layer.weight.grad[:, HIDDEN:].abs().sum() > 0, "the matching half"
        assert layer.bias.grad.abs().sum() > 0


def test_trained_weights_give_the_formula():
    adapter, (user, item) = build().double(), sides(dtype=torch.float64)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    adapted = adapter(user, item)
    weights = {name: one.detach().numpy() for name, one in adapter.named_parameters()}
    for row, (u, i) in enumerate(zip(user.numpy(), item.numpy(), strict=True)):
        joint = weights["inner.weight"] @ np.concatenate([u, i]) + weights["inner.bias"]
        match = (weights["user_match.weight"] @ u) * (weights["item_match.weight"] @ i)
        hidden = np.concatenate([np.maximum(joint, 0), match])
        gate = 2 / (1 + np.exp(-(weights["gate.weight"] @ hidden + weights["gate.bias"])))
        top = weights["top.weight"] @ hidden + weights["top.bias"]
        np.testing.assert_allclose(adapted.gate_BE[row].detach(), gate, rtol=1e-10)
        np.testing.assert_allclose(adapted.top_BT[row].detach(), top, rtol=1e-10)


def test_dropout_acts_in_training_alone():
    adapter, reps = build(dropout=0.5), sides()
    torch.nn.init.normal_(adapter.top.weight)
    assert not torch.equal(adapter(*reps).top_BT, adapter(*reps).top_BT)
    adapter.eval()
    assert torch.equal(adapter(*reps).top_BT, adapter(*reps).top_BT)
