"""Lifts and shares of a gap with intervals over rows and seeds."""

import numpy as np
import pytest
from scipy import stats

from lfm4ads.core.errors import UserError
from lfm4ads.metrics.paired import (
    GapScores,
    PairedScores,
    delong_placements,
    mean_lift,
    mean_share_of_gap,
    paired_lift,
    share_of_gap,
)
from tests.unit.metrics.reference import auc_by_pairs, beats, covariance_by_pairs

Z = stats.norm.ppf(0.975)


def arms(generator, *, num_rows=120, num_seeds=3, ties=False, rate=0.3):
    """Return scores of a worse and a better arm, a row a seed, the true logits, and labels."""
    truth = generator.normal(size=num_rows)
    labels = generator.random(num_rows) < 1 / (1 + np.exp(-2 * truth - np.log(rate / (1 - rate))))
    sets = [
        0.7 * truth
        + noise * generator.normal(size=num_rows)
        + 0.2 * generator.normal(size=(num_seeds, num_rows))
        for noise in (1.0, 0.5)
    ]
    decimals = 1 if ties else 6
    return [np.round(scores, decimals).astype(np.float32) for scores in (*sets, truth)] + [labels]


@pytest.mark.parametrize("ties", [False, True])
def test_placements_equal_pairs(ties):
    _, scores, _, labels = arms(np.random.default_rng(0), ties=ties)
    found = delong_placements(scores[0], labels=labels)
    wins = np.array([[beats(p, n) for n in scores[0][~labels]] for p in scores[0][labels]])
    np.testing.assert_allclose(found.positive, wins.mean(axis=1), atol=1e-15)
    np.testing.assert_allclose(found.negative, wins.mean(axis=0), atol=1e-15)
    assert found.auc == pytest.approx(wins.mean(), abs=1e-15)


@pytest.mark.parametrize("ties", [False, True])
def test_one_seed_is_paired_delong(ties):
    worse, better, _, labels = arms(np.random.default_rng(1), num_seeds=1, ties=ties)
    covariance = covariance_by_pairs([better[0], worse[0]], labels)
    half = Z * np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    lift = paired_lift(better, scores_b=worse, labels=labels)
    assert lift.delta_auc == pytest.approx(
        auc_by_pairs(better[0], labels) - auc_by_pairs(worse[0], labels)
    )
    assert lift.high - lift.delta_auc == pytest.approx(half, rel=1e-9)
    assert lift.delta_auc - lift.low == pytest.approx(half, rel=1e-9)
    assert (lift.num_seeds, lift.num_scenarios) == (1, 1)


def row_variance(better, worse, labels):
    """Variance over rows of the seed-averaged lift, expanded into all pairs of seeds."""
    seeds = len(better)
    signs = np.repeat([1.0, -1.0], seeds) / seeds
    return signs @ covariance_by_pairs([*better, *worse], labels) @ signs


def test_seeds_and_rows_add_up():
    worse, better, _, labels = arms(np.random.default_rng(2))
    deltas = [
        auc_by_pairs(a, labels) - auc_by_pairs(b, labels)
        for a, b in zip(better, worse, strict=True)
    ]
    half = np.sqrt(
        Z**2 * row_variance(better, worse, labels)
        + stats.t.ppf(0.975, 2) ** 2 * np.var(deltas, ddof=1) / 3
    )
    lift = paired_lift(better, scores_b=worse, labels=labels)
    assert lift.delta_auc == pytest.approx(np.mean(deltas), rel=1e-12)
    assert lift.high - lift.low == pytest.approx(2 * half, rel=1e-9)
    mirrored = paired_lift(worse, scores_b=better, labels=labels)
    assert (mirrored.low, mirrored.high) == pytest.approx((-lift.high, -lift.low), rel=1e-9)


def test_scenarios_average_and_those_of_one_class_are_counted_out():
    generator = np.random.default_rng(3)
    worlds = [arms(generator), arms(generator, num_rows=80)]
    deltas = np.array(
        [
            [
                auc_by_pairs(a, labels) - auc_by_pairs(b, labels)
                for a, b in zip(better, worse, strict=True)
            ]
            for worse, better, _, labels in worlds
        ]
    ).mean(axis=0)
    rows = sum(row_variance(better, worse, labels) for worse, better, _, labels in worlds) / 4
    half = np.sqrt(Z**2 * rows + stats.t.ppf(0.975, 2) ** 2 * np.var(deltas, ddof=1) / 3)
    scenarios = [PairedScores(scores_a=b, scores_b=w, labels=y) for w, b, _, y in worlds]
    flat = PairedScores(scores_a=np.zeros((3, 9)), scores_b=np.zeros((3, 9)), labels=np.zeros(9))
    lift = mean_lift([*scenarios, flat])
    assert lift.delta_auc == pytest.approx(deltas.mean(), rel=1e-12)
    assert lift.high - lift.low == pytest.approx(2 * half, rel=1e-9)
    assert (lift.num_seeds, lift.num_scenarios) == (3, 2)
    assert mean_lift([flat]) is None
    assert mean_lift([]) is None


@pytest.mark.parametrize("num_seeds", [1, 5])
def test_lift_interval_covers_the_truth(num_seeds):
    generator = np.random.default_rng(4)
    worse, better, _, labels = arms(generator, num_rows=200_000, num_seeds=1)
    truth = paired_lift(better, scores_b=worse, labels=labels).delta_auc
    covered = []
    for _ in range(300):
        worse, better, _, labels = arms(generator, num_rows=300, num_seeds=num_seeds)
        lift = paired_lift(better, scores_b=worse, labels=labels)
        covered.append(lift.low <= truth <= lift.high)
    assert (
        0.92 <= np.mean(covered) <= 0.995
    )  # a little wide: noise of seeds is counted in both terms


def test_share_is_the_ratio_of_differences():
    worse, better, truth, labels = arms(np.random.default_rng(5), num_rows=400)
    found = share_of_gap(better, scores_base=worse, scores_oracle=truth, labels=labels)
    base = np.mean([auc_by_pairs(scores, labels) for scores in worse])
    arm = np.mean([auc_by_pairs(scores, labels) for scores in better])
    assert found.share == pytest.approx(
        (arm - base) / (auc_by_pairs(truth, labels) - base), rel=1e-9
    )
    assert found.low < found.share < found.high
    assert (found.num_seeds, found.num_scenarios) == (3, 1)


def test_share_interval_solves_fiellers_equation():
    worse, better, truth, labels = arms(np.random.default_rng(6), num_rows=300)
    found = share_of_gap(better, scores_base=worse, scores_oracle=truth, labels=labels)
    arm, base = ([auc_by_pairs(scores, labels) for scores in each] for each in (better, worse))
    oracle = auc_by_pairs(truth, labels)
    signs_of = np.repeat(np.eye(3), [3, 3, 1], axis=1) / np.array([3, 3, 3, 3, 3, 3, 1])
    covariance = covariance_by_pairs([*better, *worse, truth], labels)
    for share in (found.low, found.high):
        signs = np.array([1.0, share - 1.0, -share]) @ signs_of
        deltas = np.subtract(arm, base) - share * (oracle - np.array(base))
        width = Z**2 * signs @ covariance @ signs
        width += stats.t.ppf(0.975, 2) ** 2 * np.var(deltas, ddof=1) / 3
        assert deltas.mean() ** 2 == pytest.approx(width, rel=1e-7)


def test_share_excludes_zero_exactly_when_the_lift_does():
    generator = np.random.default_rng(7)
    verdicts = set()
    for _ in range(60):
        worse, better, truth, labels = arms(generator, num_rows=150)
        lift = paired_lift(better, scores_b=worse, labels=labels)
        share = share_of_gap(better, scores_base=worse, scores_oracle=truth, labels=labels)
        if share.low is not None:
            assert (share.low > 0) == (lift.low > 0)
            verdicts.add(lift.low > 0)
    assert verdicts == {False, True}


def test_share_of_no_gap_is_unbounded():
    scores, _, _, labels = arms(np.random.default_rng(8), num_seeds=1)
    found = share_of_gap(scores, scores_base=scores, scores_oracle=scores[0], labels=labels)
    assert (found.share, found.low, found.high) == (None, None, None)


def test_mean_share_is_mean_lift_over_mean_gap():
    generator = np.random.default_rng(9)
    worlds = [arms(generator, num_rows=200), arms(generator, num_rows=300)]
    found = mean_share_of_gap(
        [GapScores(scores_arm=b, scores_base=w, scores_oracle=t, labels=y) for w, b, t, y in worlds]
    )
    lifts = [paired_lift(b, scores_b=w, labels=y).delta_auc for w, b, _, y in worlds]
    gaps = [paired_lift(np.array([t] * 3), scores_b=w, labels=y).delta_auc for w, _, t, y in worlds]
    assert found.share == pytest.approx(sum(lifts) / sum(gaps), rel=1e-9)
    assert found.num_scenarios == 2


def test_bad_arrays_are_refused():
    labels = np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match="do not pair up"):
        paired_lift(np.zeros((2, 4)), scores_b=np.zeros((1, 4)), labels=labels)
    with pytest.raises(ValueError, match="do not pair up"):
        paired_lift(np.zeros(4), scores_b=np.zeros(4), labels=labels)
    with pytest.raises(UserError, match="nan"):
        paired_lift(np.full((1, 4), np.nan), scores_b=np.zeros((1, 4)), labels=labels)
    with pytest.raises(ValueError, match="no AUC"):
        delong_placements(np.zeros(4), labels=np.zeros(4))
