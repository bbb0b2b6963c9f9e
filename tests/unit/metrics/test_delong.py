"""DeLong's variance against its definition, and what the interval promises."""

import numpy as np
import pytest
from scipy import stats

from lfm4ads.metrics.delong import estimate_auc
from tests.unit.metrics.reference import ads_rows, auc_by_pairs, covariance_by_pairs


def estimate(scores, labels):
    values, bins = np.unique(scores, return_inverse=True)
    positives = np.bincount(bins[labels], minlength=len(values))
    return estimate_auc(positives, negatives=np.bincount(bins, minlength=len(values)) - positives)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_and_variance_equal_the_definition(ties):
    logits, labels, _ = ads_rows(150, rate=0.3, ties=ties)
    found = estimate(logits, labels)
    assert found.auc == pytest.approx(auc_by_pairs(logits, labels), abs=1e-14)
    assert found.variance == pytest.approx(
        covariance_by_pairs([logits, logits], labels)[0, 0], rel=1e-12
    )
    assert found.low < found.auc < found.high


def coverage(signal, *, num_positives, num_negatives):
    """Return how often the interval holds the AUC of two normals that lie ``signal`` apart."""
    generator = np.random.default_rng(3)
    truth = stats.norm.cdf(signal / np.sqrt(2))
    labels = np.repeat([False, True], [num_negatives, num_positives])
    found = [
        estimate(generator.normal(size=len(labels)) + signal * labels, labels) for _ in range(1000)
    ]
    return np.mean([each.low <= truth <= each.high for each in found])


@pytest.mark.parametrize(
    ("signal", "num_positives", "num_negatives"),
    [(1.0, 40, 400), (1.0, 20, 2000), (1.0, 2000, 20), (2.5, 200, 2000)],
)
def test_interval_covers_the_truth_95_times_in_100(signal, num_positives, num_negatives):
    found = coverage(signal, num_positives=num_positives, num_negatives=num_negatives)
    assert 0.929 <= found <= 0.971  # three standard errors of 1000 draws


def test_high_auc_of_few_positives_is_covered_less_as_documented():
    assert 0.81 <= coverage(2.5, num_positives=10, num_negatives=1000) <= 0.89
    assert 0.89 <= coverage(2.5, num_positives=30, num_negatives=300) <= 0.945


def test_perfect_order_of_few_rows_proves_little():
    found = estimate(np.arange(100.0), np.arange(100) >= 95)
    assert (found.auc, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 5))
    worst = estimate(-np.arange(100.0), np.arange(100) >= 95)
    assert (worst.auc, worst.low) == (0.0, 0.0)
    assert worst.high == pytest.approx(1 - 0.025 ** (1 / 5))


def test_one_row_of_a_class_has_no_interval():
    found = estimate(np.arange(5.0), np.arange(5) == 2)
    assert (found.auc, found.variance, found.low, found.high) == (0.5, None, None, None)


def test_equal_scores_are_a_sure_half():
    found = estimate(np.zeros(10), np.arange(10) < 4)
    assert (found.auc, found.low, found.high) == (0.5, 0.5, 0.5)
