"""All figures of a task, on one rank and on several."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from lfm4ads.core.errors import UserError
from lfm4ads.metrics.binary import BinaryMetrics, figures_json
from tests.gloo import run_ranks
from tests.unit.metrics.reference import ALONE, ads_rows, gauc_by_users


def metrics_of(rows, *, batch=512, **limits):
    logits, labels, users = rows
    metrics = BinaryMetrics(**limits)
    for start in range(0, len(logits), batch):
        part = slice(start, start + batch)
        metrics.update(logits[part], labels=labels[part], users=users[part])
    return metrics


def assert_alike(found, expected):
    for name, value in dataclasses.asdict(expected).items():
        assert getattr(found, name) == (
            None if value is None else pytest.approx(value, rel=1e-12)
        ), name


def test_figures_equal_their_definitions():
    rows = logits, labels, users = ads_rows(4000)
    figures = metrics_of(rows).reduce(ALONE)
    probability = 1 / (1 + np.exp(-logits.astype(float)))
    rate = labels.mean()
    assert figures.auc == pytest.approx(roc_auc_score(labels, logits), abs=1e-13)
    assert figures.auc_low < figures.auc < figures.auc_high
    assert figures.gauc == pytest.approx(gauc_by_users(logits, labels, users), rel=1e-12)
    assert figures.log_loss == pytest.approx(log_loss(labels, probability), rel=1e-12)
    assert figures.normalized_entropy == pytest.approx(
        log_loss(labels, probability) / log_loss(labels, np.full(4000, rate)), rel=1e-12
    )
    assert figures.calibration == pytest.approx(probability.mean() / rate, rel=1e-12)
    assert (figures.rows, figures.positives) == (4000, labels.sum())
    assert (figures.auc_error_bound, figures.gauc_users_ratio) == (0.0, 1.0)


def test_extreme_logits_neither_overflow_nor_vanish():
    logits, labels = np.array([1e4, 1e4, -1e4, 60.0, -60.0]), np.array([1, 0, 1, 1, 0])
    figures = metrics_of((logits, labels, np.zeros(5, dtype=int))).reduce(ALONE)
    assert figures.log_loss == pytest.approx((2e4 + 2 * np.exp(-60.0)) / 5, rel=1e-15)
    sure = metrics_of((logits[3:], labels[3:], np.zeros(2, dtype=int))).reduce(ALONE)
    assert sure.log_loss == pytest.approx(np.exp(-60.0), rel=1e-12)


def test_sums_do_not_depend_on_batches():
    rows = ads_rows(5000)
    whole = metrics_of(rows, batch=5000)
    single = metrics_of(rows, batch=1)
    np.testing.assert_allclose(single.sums.sum(axis=1), whole.sums.sum(axis=1), rtol=2e-15)


def test_undefined_figures_are_none():
    none = BinaryMetrics().reduce(ALONE)
    assert set(figures_json(none).values()) == {None, 0}
    negatives = metrics_of((np.array([-1.0, 1.0]), np.zeros(2), np.array([1, 1]))).reduce(ALONE)
    assert negatives.log_loss is not None
    assert {negatives.auc, negatives.gauc, negatives.calibration, negatives.normalized_entropy} == {
        None
    }
    positives = metrics_of((np.array([0.0]), np.ones(1), np.array([1]))).reduce(ALONE)
    assert (positives.calibration, positives.normalized_entropy) == (0.5, None)
    pair = metrics_of((np.array([0.0, 1.0]), np.array([0, 1]), np.array([1, 1]))).reduce(ALONE)
    assert (pair.auc, pair.auc_low, pair.gauc) == (1.0, None, 1.0)


def test_json_holds_what_reports_name():
    figures = metrics_of(ads_rows(500)).reduce(ALONE)
    assert list(json.loads(json.dumps(figures_json(figures), allow_nan=False))) == [
        "auc",
        "auc_low",
        "auc_high",
        "gauc",
        "log_loss",
        "normalized_entropy",
        "calibration",
        "rows",
        "positives",
    ]


def test_refused_batch_leaves_no_trace():
    metrics = metrics_of(ads_rows(100))
    before = metrics.reduce(ALONE)
    for logits, labels, users in (
        ([np.nan], [0], [1]),
        ([0.0], [3], [1]),
        ([0.0], [1], [1.0]),
    ):
        with pytest.raises(UserError):
            metrics.update(np.array(logits), labels=np.array(labels), users=np.array(users))
    with pytest.raises(ValueError, match="users"):
        metrics.update(np.zeros(2), labels=np.zeros(2), users=np.zeros(1, dtype=int))
    assert metrics.reduce(ALONE) == before


def test_saved_through_a_file_and_merged(tmp_path):
    logits, labels, users = ads_rows(20_000)
    limits = {"capacity": 2000, "max_rows": 8000}
    parts = [
        metrics_of((logits[part], labels[part], users[part]), **limits)
        for part in (slice(0, 5000), slice(5000, 5001), slice(5001, None))
    ]
    np.savez(tmp_path / "state.npz", **parts[0].state())
    with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
        restored = BinaryMetrics.from_state(dict(state))
    restored.merge(parts[2])
    restored.merge(parts[1])
    assert_alike(
        restored.reduce(ALONE), metrics_of((logits, labels, users), **limits).reduce(ALONE)
    )


LIMITS = {"capacity": 3000, "max_rows": 12_000}


def figures_on(ranks):
    """Return figures of no row, of one (so that all ranks but one are empty) and of many."""
    return [
        metrics_of(
            tuple(column[ranks.rank :: ranks.world] for column in ads_rows(num_rows, rate=0.05)),
            **LIMITS,
        ).reduce(ranks)
        for num_rows in (0, 1, 30_000)
    ]


@pytest.mark.multiproc
@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_do_not_matter(world):
    alone = figures_on(ALONE)
    found = run_ranks(figures_on, world)
    assert all(figures == found[0] for figures in found)
    for each, expected in zip(found[0], alone, strict=True):
        assert_alike(each, expected)
        assert (each.auc, each.auc_low, each.auc_high) == (
            expected.auc,
            expected.auc_low,
            expected.auc_high,
        )
    assert found[0][2].auc_error_bound > 0
    assert found[0][2].gauc_users_ratio < 1
