"""What is ranked by, and that exploring pays where ads are cold."""

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from benchmarks.bandit import POLICIES, World, paired, play
from lfm4ads.train.explore import ExploreConfig, ranking_scores, row_noise
from tests.batches import take


def noise_of(mean):
    return torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def logits():
    torch.manual_seed(1)
    return torch.randn(40, 50), torch.rand(40, 50)


@pytest.mark.parametrize("kind", ["greedy", "thompson", "ucb"])
def test_temperature_zero_is_the_greedy_order(logits, kind):
    mean, variance = logits
    config = ExploreConfig(kind=kind, temperature=0.0)
    found = ranking_scores(mean, variance, config=config, noise_N=noise_of(mean))
    assert torch.equal(found.argsort(dim=1), mean.argsort(dim=1))
    warm = ExploreConfig(kind=kind)
    found = ranking_scores(mean, variance, config=warm, noise_N=noise_of(mean))
    moved = not torch.equal(found.argsort(dim=1), mean.argsort(dim=1))
    assert moved == (kind != "greedy")


def test_ucb_is_the_formula(logits):
    mean, variance = logits
    config = ExploreConfig(kind="ucb", temperature=1.5)
    found = ranking_scores(mean, variance, config=config, noise_N=noise_of(mean))
    torch.testing.assert_close(found, mean + 1.5 * variance**0.5)


def test_thompson_draws_around_the_mean_with_the_variance():
    mean, variance = torch.full((100_000,), -3.0), torch.full((100_000,), 0.25)
    config = ExploreConfig(kind="thompson", temperature=2.0)
    drawn = ranking_scores(mean, variance, config=config, noise_N=noise_of(mean))
    assert drawn.mean().item() == pytest.approx(-3, abs=0.02)
    assert drawn.std().item() == pytest.approx(2.0 * 0.5, rel=0.02)


def test_noise_is_normal_and_of_the_row_alone(batch):
    many = replace(
        take(batch, list(range(64)) * 100), row_id=torch.arange(6400), user=torch.arange(6400)
    )
    noise = row_noise(many, columns=3, seed=1)
    assert noise.shape == (6400, 3)
    assert noise.mean(dim=0).abs().max() < 0.05
    assert noise.std(dim=0).sub(1).abs().max() < 0.03
    assert (torch.corrcoef(noise.T) - torch.eye(3)).abs().max() < 0.05
    assert stats.kstest(noise[:, 0].numpy(), "norm").pvalue > 0.01
    few = row_noise(take(many, [7, 3]), columns=3, seed=1)
    assert torch.equal(few, noise[[7, 3]])
    for seed in (2, -5, 2**70):
        assert not torch.equal(row_noise(many, columns=3, seed=seed), noise)


@pytest.mark.parametrize("kind", ["thompson", "ucb"])
def test_a_certain_score_is_its_mean(kind):
    mean = torch.linspace(-3, 3, 7)
    config = ExploreConfig(kind=kind)
    found = ranking_scores(mean, torch.zeros(7), config=config, noise_N=noise_of(mean))
    assert torch.equal(found, mean)


@pytest.mark.parametrize("temperature", [-1.0, math.nan, math.inf])
def test_a_temperature_without_meaning_is_refused(temperature):
    with pytest.raises(ValueError, match=r"explore\.temperature"):
        ExploreConfig(temperature=temperature)


SMALL = World(rounds=20, users=120, life_rounds=20, features=64, steps=20)


def test_exploring_earns_more_than_greed_with_cold_ads():
    torch.set_num_threads(1)
    clicks = {
        name: sum(play(SMALL, policy=POLICIES[name], seed=seed).sum() for seed in range(3))
        for name in ("random", "greedy", "thompson")
    }
    assert clicks["thompson"] > 1.3 * clicks["greedy"], clicks
    assert clicks["thompson"] > 3 * clicks["random"], clicks


def test_policies_that_show_the_same_ads_get_the_same_clicks():
    frozen = ExploreConfig(kind="thompson", temperature=0.0)
    tiny = World(rounds=4, users=40, steps=5, features=32)
    greedy = play(tiny, policy=POLICIES["greedy"], seed=3)
    assert play(tiny, policy=frozen, seed=3).tolist() == greedy.tolist()
    assert play(tiny, policy=None, seed=3).tolist() != greedy.tolist()


def test_the_interval_is_students():
    gap = paired(torch.tensor([1.0, 2.0, 3.0, 6.0]).numpy())
    half = 3.182446 * 2.1602469 / 2
    assert (gap["low"], gap["high"]) == pytest.approx((3 - half, 3 + half), rel=1e-5)
    assert paired(torch.tensor([1.0]).numpy())["low"] is None
