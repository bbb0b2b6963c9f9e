"""The AUC of a stream: exact until full, bounded beyond, and the same however it came."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lfm4ads.core.errors import UserError
from lfm4ads.metrics.score_histogram import ScoreHistogram
from tests.unit.metrics.reference import ads_rows


def histogram_of(logits, labels, *, capacity=2**17, batch=1000):
    histogram = ScoreHistogram(capacity=capacity)
    for start in range(0, len(logits), batch):
        histogram.update(logits[start : start + batch], labels=labels[start : start + batch])
    return histogram


def same_bits(one, other):
    return all(one.state()[name].tobytes() == other.state()[name].tobytes() for name in one.state())


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rate", [0.5, 0.002])
def test_exact_while_scores_fit(rate, ties):
    logits, labels, _ = ads_rows(30_000, rate=rate, ties=ties)
    histogram = histogram_of(logits, labels)
    assert histogram.shift == 0
    assert histogram.auc_error_bound() == 0.0
    assert histogram.auc() == pytest.approx(roc_auc_score(labels, logits), abs=1e-13)


@pytest.mark.parametrize("centre", [-6.0, 0.0])
@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_overflow_stays_within_its_bound(centre, scale):
    logits, labels, _ = ads_rows(400_000, rate=0.02)
    logits = ((logits + 6.0) * np.float32(scale) + centre).astype(np.float32)
    histogram = histogram_of(logits, labels, capacity=4096)
    error = abs(histogram.auc() - roc_auc_score(labels, logits))
    assert len(histogram.bins().keys) <= 4096
    assert histogram.shift > 0
    assert 0 < error <= histogram.auc_error_bound() < 1e-3
    assert error < 1e-4


def test_bound_is_reached_when_a_bin_is_in_order():
    logits = np.array([1.0, np.nextafter(np.float32(1), np.float32(2)), 5.0, 9.0], dtype=np.float32)
    histogram = histogram_of(logits, np.array([0, 1, 0, 1]), capacity=3)
    assert histogram.auc() == 0.75 - 0.125
    assert histogram.auc_error_bound() == 0.125


def test_bits_lost_are_as_few_as_fit():
    logits = np.arange(1, 1025, dtype=np.float32)
    histogram = histogram_of(logits, logits > 500, capacity=600)
    finer = ScoreHistogram()
    finer.update(logits, labels=logits > 500)
    keys = finer.bins().keys
    assert len(np.unique(keys >> np.uint32(histogram.shift))) <= 600
    assert len(np.unique(keys >> np.uint32(histogram.shift - 1))) > 600


@pytest.mark.parametrize("capacity", [64, 4096, 2**17])
def test_order_batches_and_merges_do_not_matter_bit_for_bit(capacity):
    logits, labels, _ = ads_rows(600_000, rate=0.01)
    whole = histogram_of(logits, labels, capacity=capacity, batch=len(logits))
    order = np.random.default_rng(1).permutation(len(logits))
    assert same_bits(
        whole, histogram_of(logits[order], labels[order], capacity=capacity, batch=777)
    )
    by_score = np.argsort(logits)
    parts = [
        histogram_of(logits[part], labels[part], capacity=capacity)
        for part in np.split(by_score, [1000, 1001, 400_000])
    ]
    for first in (0, 3):
        merged = ScoreHistogram(capacity=capacity)
        for part in np.roll(np.arange(4), first):
            merged.merge(parts[part])
        assert same_bits(whole, merged)


def test_reading_in_mid_stream_changes_nothing():
    logits, labels, _ = ads_rows(50_000)
    read = ScoreHistogram(capacity=100)
    for start in range(0, len(logits), 500):
        read.update(logits[start : start + 500], labels=labels[start : start + 500])
        read.auc()
    assert same_bits(read, histogram_of(logits, labels, capacity=100))


def test_restored_histogram_goes_on():
    logits, labels, _ = ads_rows(50_000)
    before = histogram_of(logits[:20_000], labels[:20_000], capacity=1000)
    after = ScoreHistogram.from_state(before.state())
    after.update(logits[20_000:], labels=labels[20_000:])
    assert same_bits(after, histogram_of(logits, labels, capacity=1000))


def test_signs_zeros_and_denormals_sort_as_floats():
    logits = np.array([-3e38, -1.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, 3e38], dtype=np.float32)
    histogram = ScoreHistogram()
    histogram.update(logits, labels=np.array([0, 0, 0, 0, 1, 1, 1, 1]))
    assert len(histogram.bins().keys) == 7
    assert histogram.auc() == (16 - 0.5) / 16


@pytest.mark.parametrize(
    ("logits", "labels", "auc"),
    [
        ([], [], None),
        ([1.0], [1], None),
        ([1.0, 2.0], [0, 0], None),
        ([1.0, 2.0], [1, 1], None),
        ([1.0, 2.0], [0, 1], 1.0),
        ([2.0, 1.0], [0, 1], 0.0),
        ([3.0] * 4, [0, 1, 0, 1], 0.5),
    ],
)
def test_small_cases(logits, labels, auc):
    histogram = ScoreHistogram()
    histogram.update(np.array(logits), labels=np.array(labels))
    assert histogram.auc() == auc
    assert (histogram.auc_error_bound() is None) == (auc is None)


@pytest.mark.parametrize(
    ("logits", "labels", "sentence"),
    [
        ([0.0, np.nan], [0, 1], "row 1 of the batch holds nan"),
        ([np.inf, 0.0], [0, 1], "row 0 of the batch holds inf"),
        ([-np.inf, 0.0], [0, 1], "row 0 of the batch holds -inf"),
        ([1e39, 0.0], [0, 1], "row 0 of the batch holds 1e"),
        ([0.0, 1.0], [0, 2], "row 1 of the batch holds 2"),
        ([0.0, 1.0], [-1, 1], "row 0 of the batch holds -1"),
        ([0.0, 1.0], [0.5, 1.0], "row 0 of the batch holds 0.5"),
        ([0.0, 1.0], [np.nan, 1.0], "row 0 of the batch holds nan"),
    ],
)
def test_bad_rows_are_refused(logits, labels, sentence):
    with pytest.raises(UserError, match=sentence):
        ScoreHistogram().update(np.array(logits), labels=np.array(labels))


def test_programming_errors_are_refused():
    with pytest.raises(ValueError, match="equally long"):
        ScoreHistogram().update(np.zeros(3), labels=np.zeros(2))
    with pytest.raises(ValueError, match="capacity"):
        ScoreHistogram(capacity=1)
    with pytest.raises(ValueError, match="capacities"):
        ScoreHistogram(capacity=4).merge(ScoreHistogram(capacity=5))


def test_batches_are_copied():
    logits, labels = np.array([1.0, 2.0], dtype=np.float32), np.array([False, True])
    histogram = ScoreHistogram()
    histogram.update(logits, labels=labels)
    logits[:], labels[:] = 0.0, False
    assert histogram.auc() == 1.0
