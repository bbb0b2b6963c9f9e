"""Figures of representations whose faults are planted."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from lfm4ads.analysis.health import Drift, ProbeSums, Quantiles, coverage, staleness_days


@pytest.fixture
def draws():
    return np.random.default_rng(0)


def test_quantiles_within_a_step_and_zeros_apart(draws):
    values = np.concatenate([draws.lognormal(sigma=2, size=5_000), np.zeros(300)])
    whole, halves = Quantiles(), Quantiles()
    whole.add(values)
    halves.add(values[:17])
    halves.add(values[17:])
    found = whole.read(np.copy)
    assert found == halves.read(np.copy)
    assert found["rows"] == 5_300
    assert found["zeros_ratio"] == pytest.approx(300 / 5_300)
    for name, q in (("p50", 50), ("p95", 95)):
        assert found[name] == pytest.approx(np.percentile(values, q), rel=0.025)
    assert found["p5"] == 0
    assert Quantiles().read(np.copy)["p50"] is None


def drift_of(one, other, *, parts=3):
    drift = Drift(one.shape[1], other.shape[1])
    for place in np.array_split(np.arange(len(one)), parts):
        drift.add(one[place], other[place])
    return drift.read(np.copy)


def test_nothing_moved(draws):
    one = draws.normal(size=(200, 6)).astype(np.float32)
    found = drift_of(one, one)
    assert found["cka"] == pytest.approx(1)
    assert found["cosine"] == pytest.approx(1)
    assert found["move_ratio"] == 0


def test_a_rotation_moves_vectors_and_not_what_they_say(draws):
    one = draws.normal(size=(400, 6))
    rotation, _ = np.linalg.qr(draws.normal(size=(6, 6)))
    found = drift_of(one, 3 * one @ rotation + 5)
    assert found["cka"] == pytest.approx(1)
    assert found["cosine"] < 0.5
    assert found["move_ratio"] > 2


def test_cka_of_centred_grams_and_of_unrelated_vectors(draws):
    one, other = draws.normal(size=(300, 5)), draws.normal(size=(300, 3))
    other[:, 0] += 2 * one[:, 0]
    found = drift_of(one, other)
    a, b = ((x - x.mean(0)) @ (x - x.mean(0)).T for x in (one, other))
    assert found["cka"] == pytest.approx((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    assert found["cosine"] is None
    assert found["move_ratio"] is None
    assert drift_of(one, draws.normal(size=(300, 3)))["cka"] < 0.1
    assert Drift(3, 3).read(np.copy)["cka"] is None


def test_probe_is_ridge_regression_and_finds_what_is_planted(draws):
    rows = draws.normal(size=(4_000, 5)).astype(np.float32) * [1, 100, 0.01, 1, 0]
    label = draws.random(4_000) < 1 / (1 + np.exp(-2 * rows[:, 0] - rows[:, 1] / 100))
    sums = ProbeSums(5)
    for place in np.array_split(np.arange(3_000), 4):
        sums.add(rows[place], label[place])
    probe = sums.solve(np.copy, ridge=1e-3)
    spread = rows[:3_000].std(0)
    spread[4] = 1
    wanted = Ridge(alpha=1e-3 * 3_000).fit(rows[:3_000] / spread, label[:3_000])
    np.testing.assert_allclose(probe.weight_K * spread, wanted.coef_, rtol=1e-4, atol=1e-7)
    assert probe.bias == pytest.approx(wanted.intercept_, rel=1e-4)
    assert probe.weight_K[4] == 0
    held = slice(3_000, None)
    assert roc_auc_score(label[held], probe.scores(rows[held])) > 0.85
    blind = draws.normal(size=(4_000, 5))
    empty = ProbeSums(5)
    empty.add(blind[:3_000], label[:3_000])
    auc = roc_auc_score(label[held], empty.solve(np.copy).scores(blind[held]))
    assert 0.45 < auc < 0.55


def test_coverage_and_staleness():
    rows = [np.array([True, False]), np.array([True])]
    assert coverage(rows, np.copy) == (3, pytest.approx(2 / 3))
    assert coverage([], np.copy) == (0, None)
    day = 86_400_000
    found = staleness_days(np.array([0, day, 3 * day]), as_of_end_ms=2 * day)
    assert found.tolist() == [2, 1, 0]
