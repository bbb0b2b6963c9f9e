"""The non-linear adapter of user and item representations."""

import numpy as np
import pytest
import torch

from lfm4ads.nn.adapter import NonLinearAdapter, SigmoidGate, TokenAdapter

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


def test_an_adapter_of_one_side_has_no_matching_half():
    torch.manual_seed(0)
    adapter = NonLinearAdapter(USER, 0, embedding_width=10, hidden=HIDDEN, top=4, dropout=0.0)
    user, _ = sides()
    adapted = adapter(user, user[:, :0])
    assert torch.equal(adapted.gate_BE, torch.ones(9, 10))
    assert {name.split(".")[0] for name, _ in adapter.named_parameters()} == {
        "inner",
        "gate",
        "top",
    }


def test_the_public_gate_halves_at_zero_and_is_the_formula():
    torch.manual_seed(0)
    gate = SigmoidGate(USER, embedding_width=10).double()
    rep, _ = sides(dtype=torch.float64)
    weight, bias = (one.detach().numpy() for one in (gate.map.weight, gate.map.bias))
    wanted = 1 / (1 + np.exp(-(rep.numpy() @ weight.T + bias)))
    np.testing.assert_allclose(gate(rep).detach().numpy(), wanted, rtol=1e-12)
    torch.nn.init.zeros_(gate.map.bias)
    assert torch.equal(gate(torch.zeros_like(rep)), torch.full((9, 10), 0.5, dtype=torch.float64))


DIMS = {"user.ur": 6, "user.cr": 4, "item.ir": 6}


def tokens(rows=9):
    torch.manual_seed(3)
    adapter = TokenAdapter(DIMS, token_dim=5, num_tokens=2).double()
    reps = {name: torch.randn(rows, dim, dtype=torch.float64) for name, dim in DIMS.items()}
    present = {name: (torch.rand(rows, dtype=torch.float64) > 0.4).double() for name in DIMS}
    return adapter, reps, present


def test_tokens_are_the_masked_maps_mixed_and_normalised():
    adapter, reps, present = tokens()
    found = adapter(reps, present).detach().numpy()
    mix = adapter.mix.weight.detach().numpy()
    for row in range(9):
        mapped = np.zeros((len(DIMS), 5))
        for place, (name, dim) in enumerate(DIMS.items()):
            one = adapter.maps[str(dim)]
            weight, bias = one.weight.detach().numpy(), one.bias.detach().numpy()
            mapped[place] = (weight @ reps[name][row].numpy() + bias) * present[name][row].item()
        for token in range(2):
            mixed = mix[token] @ mapped
            scaled = (mixed - mixed.mean()) / np.sqrt(mixed.var() + 1e-5)
            np.testing.assert_allclose(found[row, 5 * token : 5 * token + 5], scaled, atol=1e-9)


def test_blocks_of_one_width_share_their_map_and_an_absent_one_leaves_nothing():
    adapter, reps, present = tokens()
    assert set(adapter.maps) == {"4", "6"}
    present["user.cr"] = torch.zeros_like(present["user.cr"])
    before = adapter(reps, present)
    with torch.no_grad():
        adapter.maps["4"].bias.add_(7.0)
    assert torch.equal(adapter(reps, present), before), "not even the bias of its map"
    absent = {name: torch.zeros_like(one) for name, one in present.items()}
    assert torch.equal(adapter(reps, absent), torch.zeros(9, 10, dtype=torch.float64))
