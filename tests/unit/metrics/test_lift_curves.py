import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.metrics.lift_curves import best_points, differing_parts, lift_curves


def lift(arm, scenario, value):
    ends = {"low": value - 0.1, "high": value + 0.1}
    return {"arm": arm, "task": "click", "scenario": scenario, "delta_auc": value, **ends}


LIFTS = [
    lift(f"gate_{layer}", name, layer / 10 + shift)
    for layer in (0, 1, 2)
    for name, shift in (("mean", 1), ("4", 0))
]


def test_points_are_the_lifts_in_the_order_of_the_curve():
    rows = lift_curves(
        LIFTS, curves={"gate": ["gate_2", "gate_0"], "with": ["base", "gate_1"]}, baseline="base"
    )
    assert [(row["curve"], row["scenario"]) for row in rows] == [
        ("gate", "mean"),
        ("with", "mean"),
        ("gate", "4"),
        ("with", "4"),
    ]
    assert rows[2]["points"] == [
        {"arm": "gate_2", "label": "2", "delta_auc": 0.2, "low": 0.1, "high": pytest.approx(0.3)},
        {"arm": "gate_0", "label": "0", "delta_auc": 0.0, "low": -0.1, "high": 0.1},
    ]
    base = {"arm": "base", "label": "base", "delta_auc": 0.0, "low": None, "high": None}
    assert rows[1]["points"][0] == base


def test_unknown_arms_and_empty_curves_are_refused():
    with pytest.raises(UserError, match=r"curve gate names gate_7, .* \(base, gate_0, gate_1, gat"):
        lift_curves(LIFTS, curves={"gate": ["gate_7"]}, baseline="base")
    with pytest.raises(UserError, match="curve gate names no arm"):
        lift_curves(LIFTS, curves={"gate": []}, baseline="base")


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["gate_towers", "gate_cross_1", "gate_top_1"], ["towers", "cross 1", "top 1"]),
        (["concat_cross_1", "concat_mlp_1"], ["cross 1", "mlp 1"]),
        (["0_gate", "1_gate"], ["0", "1"]),
        (["gate", "gate_deep"], ["gate", "gate deep"]),
        (["cr_1", "cr_1"], ["cr 1", "cr 1"]),
        (["alone_1"], ["alone 1"]),
    ],
)
def test_labels_are_what_differs(names, parts):
    assert differing_parts(names) == parts


def test_the_validation_days_choose_a_point():
    aucs = {
        "gate_0": {"valid": 0.70, "test": 0.60},
        "gate_1": {"valid": 0.72, "test": 0.55},
        "gate_2": {"valid": 0.71, "test": 0.80},
        "base": {"valid": 0.90, "test": 0.90},
    }
    means = [
        {"arm": arm, "task": "click", "split": split, "scenario": scenario, "auc": auc + shift}
        for arm, splits in aucs.items()
        for split, auc in splits.items()
        for scenario, shift in (("mean", 0.0), ("all", 0.0 if arm == "gate_1" else 0.09))
    ]
    curves = {"gate": ["gate_0", "gate_1", "gate_2"], "lost": ["gate_9"]}
    wanted = {"curve": "gate", "task": "click", "arm": "gate_1", "label": "1"}
    assert best_points(means, curves=curves) == [wanted | {"valid_auc": 0.72, "test_auc": 0.55}]
