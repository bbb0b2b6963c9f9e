import numpy as np
import pytest

from lfm4ads.analysis.figures import draw_reliability
from lfm4ads.analysis.reliability import reliability


def test_a_true_model_lies_on_the_diagonal():
    rng = np.random.default_rng(0)
    logit = rng.normal(-2, 1.5, 60_000).astype(np.float32)
    chance = 1 / (1 + np.exp(-logit.astype(np.float64)))
    label = (rng.random(60_000) < chance).astype(np.int8)
    bins = reliability(label, logit_N=logit, task="click", num_bins=10)
    assert (bins.rows_B == 6_000).all()
    assert bins.observed_B @ bins.rows_B == pytest.approx(label.sum())
    assert bins.predicted_B @ bins.rows_B == pytest.approx(chance.sum())
    error = np.sqrt(bins.predicted_B * (1 - bins.predicted_B) / bins.rows_B)
    assert (np.abs(bins.observed_B - bins.predicted_B) < 4 * error).all()
    assert (np.diff(bins.predicted_B) > 0).all()


def test_few_rows_make_few_bins():
    bins = reliability(np.array([0, 1, 0]), logit_N=np.array([3.0, 1.0, 2.0]), task="click")
    assert bins.observed_B.tolist() == [1.0, 0.0, 0.0]


def test_bins_without_a_positive_can_be_drawn():
    bins = reliability(np.zeros(30), logit_N=np.linspace(-3, 0, 30), task="ads_click")
    picture = draw_reliability([bins], arm="sum")
    assert "ads click from predicted 0.05" in picture.alt
    assert picture.svg.count("<path") > 3
