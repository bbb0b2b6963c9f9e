"""The random-feature heads against Bayesian linear regression by brute force."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lfm4ads.nn.mlp import Mlp
from lfm4ads.nn.sngp import SngpHeads, mean_field
from lfm4ads.nn.spectral import SpectralBound

ROWS, WIDTH, FEATURES = 60, 5, 24


@pytest.fixture
def rows():
    torch.manual_seed(3)
    hidden_BH = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    masks_BT = (torch.rand(ROWS, 2) < 0.6).float()
    return hidden_BH, torch.randint(3, (ROWS,)), masks_BT


def build(decay=1.0, **options):
    heads = SngpHeads(
        WIDTH, scenarios=3, tasks=2, features=FEATURES, seed=5, decay=decay, **options
    )
    heads = heads.double()
    for parameter in heads.parameters():
        nn.init.normal_(parameter)
    return heads


def features_by_formula(heads, hidden_BH):
    x_BH = hidden_BH / (1 + hidden_BH.square().mean(1, keepdim=True)).sqrt()
    return math.sqrt(2 / FEATURES) * torch.cos(x_BH @ heads.frequencies.T + heads.phases)


def precision_by_loops(heads, rows, ridge):
    phi_BR, logits_BT = features_by_formula(heads, rows[0]), heads(*rows[:2])
    result = [ridge * torch.eye(FEATURES, dtype=torch.float64) for _ in range(2)]
    for row in range(ROWS):
        for task in range(2):
            if rows[2][row, task]:
                p = torch.sigmoid(logits_BT[row, task])
                result[task] = result[task] + p * (1 - p) * torch.outer(phi_BR[row], phi_BR[row])
    return torch.stack(result)


def test_logits_are_the_formula_of_the_rows_scenario(rows):
    heads = build()
    hidden_BH, scenario_B, _ = rows
    phi_BR, found = features_by_formula(heads, hidden_BH), heads(hidden_BH, scenario_B)
    for row, scenario in enumerate(scenario_B.tolist()):
        weight_TR = heads.shared + heads.delta[scenario]
        torch.testing.assert_close(found[row], weight_TR @ phi_BR[row] + heads.bias[scenario])


def test_features_are_fixed_and_come_from_the_seed_alone():
    heads, same, other = (
        SngpHeads(4, scenarios=1, tasks=1, features=8, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(heads.frequencies, same.frequencies)
    assert torch.equal(heads.phases, same.phases)
    assert not torch.equal(heads.frequencies, other.frequencies)
    assert {name for name, _ in heads.named_parameters()} == {"shared", "delta", "bias"}


def test_features_make_a_gaussian_kernel():
    heads = SngpHeads(3, scenarios=1, tasks=1, features=1500, frequency=1.5)
    x_BH = torch.randn(6, 3)
    phi_BR = heads.features(x_BH).detach()
    bounded = x_BH / (1 + x_BH.square().mean(1, keepdim=True)).sqrt()
    squared = torch.cdist(bounded, bounded).square()
    wanted = torch.exp(-squared * 1.5**2 / (2 * 3))
    torch.testing.assert_close(phi_BR @ phi_BR.T, wanted, atol=0.12, rtol=0)


def test_variance_is_the_inverse_precision_of_bayesian_regression(rows):
    heads, new_BH = build(ridge=0.7), torch.randn(9, WIDTH, dtype=torch.float64)
    heads.observe(*rows)
    heads.settle()
    precision_TRR = precision_by_loops(heads, rows, 0.7)
    torch.testing.assert_close(heads.precision(), precision_TRR, rtol=1e-10, atol=1e-12)
    phi_BR = features_by_formula(heads, new_BH)
    wanted = torch.einsum("br,trq,bq->bt", phi_BR, torch.linalg.inv(precision_TRR), phi_BR)
    torch.testing.assert_close(heads.variance(new_BH), wanted, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(wanted[:, 0], wanted[:, 1], rtol=1e-3), "tasks saw other rows"


def test_without_rows_the_variance_is_the_prior(rows):
    heads = build(ridge=4.0)
    phi_BR = features_by_formula(heads, rows[0])
    wanted = phi_BR.square().sum(1, keepdim=True).expand(-1, 2) / 4
    torch.testing.assert_close(heads.variance(rows[0]), wanted)
    heads.observe(rows[0], rows[1], torch.zeros(ROWS, 2))
    heads.settle()
    torch.testing.assert_close(heads.variance(rows[0]), wanted)


def test_variance_shrinks_with_data_and_is_larger_off_distribution():
    torch.manual_seed(0)
    mlp = Mlp(8, (32, 16), spectral=2.0)
    heads = SngpHeads(16, scenarios=1, tasks=1, features=128)
    optimizer = torch.optim.Adam([*mlp.parameters(), *heads.parameters()], lr=3e-3)
    x, none = torch.randn(4000, 8), torch.zeros(4000, dtype=torch.long)
    y = (torch.rand(4000) < torch.sigmoid(2 * x[:, 0] * x[:, 1] - 1)).float()
    for step in range(150):
        index = torch.arange(step * 128, step * 128 + 128) % 4000
        logits = heads(mlp(x[index])[-1], none[index])[:, 0]
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(logits, y[index]).backward()
        optimizer.step()
    mlp.eval()
    familiar = torch.randn(500, 8)
    far = {"scaled": 4 * familiar, "shifted": familiar + 4}
    means = []
    with torch.no_grad():
        for start, end in ((0, 0), (0, 100), (100, 1000), (1000, 4000)):
            heads.observe(mlp(x[start:end])[-1], none[start:end], torch.ones(end - start, 1))
            heads.settle()
            means.append(heads.variance(mlp(familiar)[-1]).mean().item())
        off = {name: heads.variance(mlp(rows)[-1]).mean().item() for name, rows in far.items()}
    assert means[0] == pytest.approx(1, abs=0.2)
    assert means[1] < 0.7 * means[0]
    assert means[2] < 0.7 * means[1]
    assert means[3] < 0.7 * means[2]
    assert all(value > 3 * means[-1] for value in off.values()), (means, off)


def test_halves_merge_into_the_whole(rows):
    whole, *halves = (build(decay=0.9) for _ in range(3))
    for one in halves:
        one.load_state_dict(whole.state_dict())
    for start in range(0, ROWS, 20):
        batch = [part[start : start + 20] for part in rows]
        whole.observe(*batch)
        for one, half in zip(halves, (slice(0, 10), slice(10, 20)), strict=True):
            one.observe(*(part[half] for part in batch))
        if start == 20:
            settle_together(halves)
            whole.settle()
    settle_together(halves)
    whole.settle()
    for one in halves:
        torch.testing.assert_close(one.precision(), whole.precision(), rtol=1e-12, atol=1e-12)
    settled = whole.precision().clone()
    whole.settle()
    assert torch.equal(whole.precision(), settled), "settling twice adds nothing"


def settle_together(halves):
    """Do what an all-reduce does."""
    sums = [one.pending_sum.numpy().copy() for one in halves]
    counts = [one.pending_rows.numpy().copy() for one in halves]
    for one in halves:
        totals = iter([sums[0] + sums[1], counts[0] + counts[1]])
        one.settle(lambda _, totals=totals: next(totals))


def test_running_precision_nears_the_exact_one():
    torch.manual_seed(0)
    exact, running, forgetful = build(), build(decay=0.99), build(decay=0.5)
    for one in (running, forgetful):
        one.load_state_dict(exact.state_dict())
    scenario_B, masks_BT = torch.zeros(64, dtype=torch.long), torch.ones(64, 2)
    for _ in range(400):
        hidden_BH = torch.randn(64, WIDTH, dtype=torch.float64)
        for one in (exact, running, forgetful):
            one.observe(hidden_BH, scenario_B, masks_BT)
    for one in (exact, running, forgetful):
        one.settle()
    near, far = (
        ((one.precision() - exact.precision()).norm() / exact.precision().norm()).item()
        for one in (running, forgetful)
    )
    assert near < 0.04
    assert far > 2 * near
    ratio = running.variance(hidden_BH) / exact.variance(hidden_BH)
    assert (ratio - 1).abs().mean() < 0.05


def test_running_precision_forgets_what_the_features_were():
    torch.manual_seed(0)
    running, fresh = build(decay=0.9), build()
    fresh.load_state_dict(running.state_dict())
    scenario_B, masks_BT = torch.zeros(64, dtype=torch.long), torch.ones(64, 2)
    old_BH, new_BH = torch.full((64, WIDTH), 3.0).double(), torch.randn(64, WIDTH).double()
    for _ in range(5):
        running.observe(old_BH, scenario_B, masks_BT)
    for _ in range(100):
        running.observe(new_BH, scenario_B, masks_BT)
    for _ in range(105):
        fresh.observe(new_BH, scenario_B, masks_BT)
    running.settle()
    fresh.settle()
    torch.testing.assert_close(running.precision(), fresh.precision(), rtol=1e-3, atol=1e-3)


def test_the_cached_factor_follows_every_change(rows):
    heads = build()
    prior = heads.variance(rows[0])
    heads.observe(*rows)
    assert torch.equal(heads.variance(rows[0]), prior), "pending rows are not in it yet"
    heads.settle()
    after = heads.variance(rows[0])
    assert (after < prior).all()
    kept = heads._factor
    assert torch.equal(heads.variance(rows[0]), after)
    assert heads._factor is kept
    saved = copy.deepcopy(heads.state_dict())
    copied = copy.deepcopy(heads)
    heads.reset_precision()
    assert torch.equal(heads.variance(rows[0]), prior)
    heads.load_state_dict(saved)
    assert torch.equal(heads.variance(rows[0]), after)
    assert torch.equal(copied.variance(rows[0]), after)


@pytest.mark.parametrize("size", [1e-30, 1e9, 1e18, 1e200])
def test_an_extreme_or_singular_precision_has_a_variance(rows, size):
    heads = build(ridge=1e-6)
    heads.precision_sum.fill_(size)
    variance = heads.variance(1e6 * rows[0])
    assert torch.isfinite(variance).all()
    assert (variance >= 0).all()


@pytest.mark.parametrize("options", [{"ridge": 0.0}, {"decay": 0.0}, {"decay": 1.1}])
def test_settings_without_meaning_are_refused(options):
    with pytest.raises(ValueError, match="precision must be"):
        build(**options)


def test_mean_field_is_the_mean_of_the_sigmoid():
    logits, variance = torch.tensor([-2.0, 0.5, 1.0]), torch.tensor([1.0, 4.0, 0.0])
    drawn = logits + variance.sqrt() * torch.randn(400_000, 3)
    wanted = torch.sigmoid(drawn).mean(0)
    torch.testing.assert_close(
        torch.sigmoid(mean_field(logits, variance)), wanted, atol=0.01, rtol=0
    )


def largest(mlp):
    return [
        torch.linalg.matrix_norm(bound(layer.weight), 2).item()
        for layer, bound in zip(mlp.layers, mlp.bounds, strict=True)
    ]


def train(mlp, steps=200):
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(mlp.parameters(), lr=0.01)
    x, y = torch.randn(64, 6), 20 * torch.randn(64, 3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(mlp(x)[-1], y).backward()
        optimizer.step()
    return mlp.eval()


def test_the_spectral_bound_holds_after_training():
    torch.manual_seed(0)
    free, bounded = Mlp(6, (16, 3)), Mlp(6, (16, 3), spectral=0.8)
    norms = [torch.linalg.matrix_norm(layer.weight, 2) for layer in train(free).layers]
    assert min(norms) > 2, "without a bound the weights outgrow it"
    assert max(largest(train(bounded))) < 0.8 * 1.2, "the vectors lag the optimiser by a step"
    bounded.train()
    for _ in range(20):
        largest(bounded)
    assert largest(bounded) == pytest.approx([0.8, 0.8], rel=1e-3)


def test_weights_below_the_bound_are_left_alone():
    torch.manual_seed(0)
    mlp = Mlp(6, (16, 3), spectral=50.0)
    for layer, bound in zip(mlp.layers, mlp.bounds, strict=True):
        assert torch.equal(bound(layer.weight), layer.weight)


def test_without_a_bound_nothing_changes_and_names_stay():
    torch.manual_seed(0)
    free, after_free = Mlp(6, (16, 3)), torch.rand(1)
    torch.manual_seed(0)
    bounded, after_bounded = Mlp(6, (16, 3), spectral=0.1), torch.rand(1)
    assert torch.equal(after_free, after_bounded), "the bound draws from a generator of its own"
    assert [name for name, _ in free.named_parameters()] == [
        name for name, _ in bounded.named_parameters()
    ]
    assert set(free.state_dict()) == {name for name, _ in free.named_parameters()}
    x = torch.randn(4, 6)
    layers = free.layers
    assert torch.equal(free(x)[1], layers[1](F.relu(layers[0](x))))
    assert not torch.equal(free(x)[1], bounded(x)[1])


def test_the_bound_goes_on_from_a_checkpoint_and_equally_on_every_rank():
    torch.manual_seed(0)
    mlp = train(Mlp(6, (16, 3), spectral=0.8), steps=10)
    peer = Mlp(6, (16, 3), spectral=0.8).eval()
    peer.load_state_dict(mlp.state_dict())
    x = torch.randn(4, 6)
    assert torch.equal(mlp(x)[1], peer(x)[1])
    assert torch.equal(mlp(x)[1], peer(x)[1]), "evaluating moves no vector"
    train(mlp.train(), steps=5)
    train(peer.train(), steps=5)
    for (name, mine), theirs in zip(
        mlp.state_dict().items(), peer.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name


def test_two_forwards_before_a_backward_are_allowed():
    mlp = Mlp(6, (16, 3), spectral=0.1)
    (mlp(torch.randn(4, 6))[1].sum() + mlp(torch.randn(4, 6))[1].sum()).backward()
    assert all(parameter.grad is not None for parameter in mlp.parameters())


def test_a_bound_must_be_positive():
    with pytest.raises(ValueError, match="spectral bound"):
        SpectralBound(torch.eye(2), bound=-1.0)


def test_the_rate_is_that_of_the_logits_given():
    torch.manual_seed(0)
    heads = SngpHeads(6, scenarios=2, tasks=3, features=8)
    h, scenario, masks = torch.randn(20, 6), torch.randint(0, 2, (20,)), torch.ones(20, 3)
    logits = torch.randn(20, 3)
    heads.observe(h, scenario, masks, logits_BT=logits)
    heads.settle()
    phi, rate = heads.features(h).double(), torch.sigmoid(logits).double()
    for task in range(3):
        weight = rate[:, task] * (1 - rate[:, task])
        torch.testing.assert_close(heads.precision_sum[task], phi.T @ (phi * weight[:, None]))


def test_what_is_dropped_before_it_is_settled_never_counts():
    heads = SngpHeads(6, scenarios=2, tasks=3, features=8)
    rows = torch.randn(20, 6), torch.zeros(20, dtype=torch.int64), torch.ones(20, 3)
    heads.observe(*rows)
    heads.drop_pending()
    heads.settle()
    assert not heads.precision_sum.any()
    assert not heads.precision_rows.any()
