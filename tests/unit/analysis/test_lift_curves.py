import re

from lfm4ads.analysis.lift_curves import draw_lift_curves, merge_labels
from lfm4ads.analysis.svg import PALETTE


def row(curve, *values):
    points = [
        {
            "arm": f"{curve}_{place}",
            "label": str(place),
            "delta_auc": value,
            "low": None if value is None else value - 0.1,
            "high": None if value is None else value + 0.1,
        }
        for place, value in enumerate(values)
    ]
    return {"curve": curve, "task": "long_view", "scenario": "mean", "points": points}


def test_labels_of_all_lines_in_their_order():
    assert merge_labels([["1", "2"], ["0", "1", "2", "top"]]) == ["0", "1", "2", "top"]
    assert merge_labels([["0", "1", "2"], ["0", "2", "3", "4"]]) == ["0", "1", "2", "3", "4"]
    assert merge_labels([["0", "mlp"], ["0", "1", "2"]]) == ["0", "1", "2", "mlp"]
    assert merge_labels([["a", "b"], ["c"]]) == ["a", "b", "c"]


def test_a_picture_has_a_line_a_curve_and_says_every_lift():
    picture = draw_lift_curves([row("gate", 0.1, None, 0.3), row("concat", 0.2)], baseline="plain")
    assert (picture.section, picture.name) == ("curves", "curves-long_view-mean")
    for words in ("gate 0 +0.1000 [+0.0000, +0.2000]", "gate 1 \N{EN DASH}", "concat 0 +0.2000"):
        assert words in picture.alt
    for colour in PALETTE[:2]:
        assert len(re.findall(f"stroke: {colour}", picture.svg)) >= 2
    assert PALETTE[2] not in picture.svg
    assert "AUC lift over plain" in picture.svg
