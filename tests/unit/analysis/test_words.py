from lfm4ads.analysis.words import headline, why_undefined

LIFT = {
    "arm": "adapter",
    "baseline": "vanilla",
    "task": "ads_click",
    "scenario": "mean",
    "scenarios": ["0", "3"],
    "delta_auc": 0.031,
    "low": 0.024,
    "high": 0.038,
    "num_seeds": 3,
    "rows": 40_000,
    "positives": 1_600,
}


def test_headline_says_what_the_interval_says():
    data = "over vanilla, mean over 2 scenarios, 3 seeds, 40,000 rows, 1,600 positives"
    assert headline(LIFT) == f"adapter lifts ads click AUC by +0.0310 [+0.0240, +0.0380] {data}"
    worse = LIFT | {"delta_auc": -0.02, "low": -0.03, "high": -0.01}
    assert headline(worse) == f"adapter lowers ads click AUC by -0.0200 [-0.0300, -0.0100] {data}"
    unsure = LIFT | {"low": -0.001}
    assert headline(unsure).startswith("adapter does not clearly change ads click AUC: +0.0310")
    none = LIFT | {"delta_auc": None, "low": None, "high": None, "scenarios": [], "num_seeds": 1}
    assert headline(none) == (
        "adapter has no defined lift of ads click AUC over vanilla, "
        "mean over 0 scenarios, 1 seed, 40,000 rows, 1,600 positives"
    )


def test_pooled_headline_says_pooled():
    assert "lifts ads click pooled AUC by" in headline(LIFT | {"scenario": "all"})


def test_every_dash_has_its_reason():
    row = {"rows": 10, "positives": 3, "scenario": "1"}
    assert why_undefined(row | {"rows": 0}, field="auc") == "no labelled rows here"
    assert why_undefined(row | {"positives": 0}, field="auc") == "no positives here"
    assert why_undefined(row | {"positives": 10}, field="gauc") == "only positives here"
    assert why_undefined(row, field="gauc") == "no user has both outcomes here"
    assert why_undefined(row, field="low") == "too few rows of one class for an interval"
    mean = row | {"scenario": "mean"}
    assert why_undefined(mean, field="log_loss") == "not defined for a mean over scenarios"
    assert why_undefined({"seconds": None}, field="seconds") == "the run did not record it"
