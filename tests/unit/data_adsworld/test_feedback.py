"""The oracle is calibrated and best, rates come out as configured, and the causes are there."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from data.adsworld.scenarios import SCENARIOS
from tests.unit.data_adsworld.conftest import days_of, read_day

TASKS = ("click", "long_view", "conversion")


@pytest.fixture(scope="module")
def rows(big_world):
    """All rows' columns as arrays, with the oracle's."""
    columns = {}
    for name in (*TASKS, "domain", "scenario", "age", "seen_today", "conversion_delay_ms"):
        days = [read_day(big_world, day)[name].to_numpy() for day in days_of(big_world)]
        columns[name] = np.concatenate(days).astype(float)
    for task in TASKS:
        days = [
            pq.ParquetDataset(big_world / "oracle" / f"day={day}").read()
            for day in days_of(big_world)
        ]
        columns[f"p_{task}"] = np.concatenate([d[f"probability_{task}"].to_numpy() for d in days])
    return columns


def check_calibrated(label, probability):
    noise = np.sqrt(np.sum(probability * (1 - probability))) / len(label)
    assert abs(label.mean() - probability.mean()) < 4 * noise


@pytest.mark.parametrize("task", TASKS)
def test_labels_follow_the_true_probability(rows, task):
    known = ~np.isnan(rows[task])
    assert np.array_equal(known, ~np.isnan(rows[f"p_{task}"]))
    label, probability = rows[task][known], rows[f"p_{task}"][known].astype(float)
    check_calibrated(label, probability)
    edges = np.quantile(probability, [0.25, 0.5, 0.75])
    for quarter in range(4):
        part = np.searchsorted(edges, probability) == quarter
        check_calibrated(label[part], probability[part])


@pytest.mark.parametrize("task", ["click", "long_view"])
def test_no_distortion_of_the_oracle_does_better(rows, task):
    known = ~np.isnan(rows[task])
    label, probability = rows[task][known], rows[f"p_{task}"][known].astype(float)
    logit = np.log(probability / (1 - probability))
    best_auc, best_loss = roc_auc_score(label, logit), log_loss(label, probability)
    rng = np.random.default_rng(0)
    tilt = rows["age"][known] - rows["age"][known].mean()
    noisy = logit + 0.5 * rng.standard_normal(len(logit))
    for score in (noisy, logit + 0.02 * tilt, logit - 0.02 * tilt, 0.8 * logit, 1.2 * logit):
        assert roc_auc_score(label, score) <= best_auc + 1e-6
        assert log_loss(label, 1 / (1 + np.exp(-score))) > best_loss


def test_rates_are_as_configured(rows):
    content, ads = rows["domain"] == 0, rows["domain"] == 1
    assert rows["click"][content].mean() == pytest.approx(0.35, rel=0.1)
    assert rows["long_view"][content].mean() == pytest.approx(0.2, rel=0.1)
    assert rows["click"][ads].mean() == pytest.approx(0.04, rel=0.15)
    assert rows["p_conversion"][ads].mean() == pytest.approx(0.004, rel=0.2)
    for place, scenario in enumerate(SCENARIOS):
        here = rows["scenario"] == place
        domain = ads if scenario.domain == "ads" else content
        assert here.sum() / domain.sum() == pytest.approx(scenario.share, rel=0.15)
        rate = {"content": 0.35, "ads": 0.04}[scenario.domain] * scenario.lift
        assert rows["p_click"][here].mean() == pytest.approx(rate, rel=0.2)


def test_the_best_ads_auc_is_as_in_real_logs(rows):
    for place, scenario in enumerate(SCENARIOS):
        here = rows["scenario"] == place
        if scenario.domain == "ads" and here.sum() > 5_000:
            assert 0.76 < roc_auc_score(rows["click"][here], rows["p_click"][here]) < 0.85


def test_age_raises_and_repetition_lowers_ads_clicks(rows):
    ads = rows["domain"] == 1
    first = ads & (rows["seen_today"] == 0)
    bands = [first & (rows["age"] >= low) & (rows["age"] < low + 12) for low in (14, 26, 38, 50)]
    means = [rows["p_click"][band].mean() for band in bands]
    assert means == sorted(means)
    assert (
        rows["p_click"][ads & (rows["seen_today"] >= 2)].mean()
        < 0.8 * rows["p_click"][first].mean()
    )


def test_delays_are_hours_with_a_tail_of_days(rows):
    hours = rows["conversion_delay_ms"][rows["conversion"] == 1] / 3_600_000
    assert 1 < np.median(hours) < 12
    assert np.mean(hours > 48) > 0.02
