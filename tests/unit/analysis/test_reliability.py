import numpy as np
import pytest

from lfm4ads.analysis.figures import draw_reliability
from lfm4ads.analysis.reliability import reliability


def test_a_true_model_lies_on_the_diagonal():
    rng = np.random.default_rng(0)
    logit = rng.normal(-2, 1.5, 60_000).astype(np.float32)
    chance = 1 / (1 + np.exp(-logit.astype(np.float64)))
    label = (rng.random(60_000) < chance).astype(np.int8)
    bins = reliability(label, logit_N=logit, num_bins=10)
    predicted, observed, rows = (
        np.array([one[name] for one in bins]) for name in ("predicted", "observed", "rows")
    )
    assert (rows == 6_000).all()
    assert observed @ rows == pytest.approx(label.sum())
    assert predicted @ rows == pytest.approx(chance.sum())
    error = np.sqrt(predicted * (1 - predicted) / rows)
    assert (np.abs(observed - predicted) < 4 * error).all()
    assert (np.diff(predicted) > 0).all()


def test_few_rows_make_few_bins():
    bins = reliability(np.array([0, 1, 0]), logit_N=np.array([3.0, 1.0, 2.0]))
    assert [one["observed"] for one in bins] == [1.0, 0.0, 0.0]


def test_bins_without_a_positive_can_be_drawn():
    bins = reliability(np.zeros(30), logit_N=np.linspace(-3, 0, 30))
    picture = draw_reliability([{"arm": "sum", "task": "ads_click", "bins": bins}], arm="sum")
    assert "ads click from predicted 0.05" in picture.alt
    assert picture.svg.count("<path") > 3
    assert picture.png.startswith(b"\x89PNG")


def test_tasks_differ_in_shape_and_not_in_colour_alone():
    bins = reliability(np.arange(40) % 2, logit_N=np.linspace(-3, 0, 40))
    rows = [{"arm": "sum", "task": task, "bins": bins} for task in ("click", "buy")]
    both, one = (draw_reliability(some, arm="sum").svg.count("<defs>") for some in (rows, rows[:1]))
    assert both == one + 1  # a shape is defined once
