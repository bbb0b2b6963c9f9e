"""Intervals over seeds."""

import numpy as np
import pytest
from scipy import stats

from lfm4ads.metrics.seeds import student_interval


def test_it_is_the_interval_of_a_t_test():
    values = [0.61, 0.64, 0.6, 0.66]
    found = student_interval(values)
    wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert found.mean == pytest.approx(np.mean(values))


def test_one_seed_has_no_interval():
    found = student_interval([0.7])
    assert (found.mean, found.low, found.high) == (0.7, None, None)


def test_it_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(0.3, 2.0, (2000, 3))
    found = [student_interval(list(row)) for row in draws]
    inside = np.mean([one.low <= 0.3 <= one.high for one in found])
    assert inside == pytest.approx(0.95, abs=0.015)
