import json

import pytest

from lfm4ads.analysis.curves import MAX_POINTS, load_curves
from lfm4ads.analysis.gallery import draw_training
from lfm4ads.core.errors import UserError


def curves_of(tmp_path, lines):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load_curves(path, run="adapter/seed-0", arm="adapter")


def line(name, value, *, step, split="train", **more):
    return {"step": step, "split": split, "name": name, "value": value, "unit": "nats"} | more


def test_figures_are_told_apart_by_name_and_split(tmp_path):
    lines = [line("rate", 5.0, step=step) for step in (1, 2)]
    lines += [
        line("loss", 1 / step, step=step, split=split) for step in (1, 2) for split in ("a", "b")
    ]
    found = curves_of(tmp_path, lines)
    assert [(curve.name, curve.split) for curve in found] == [
        ("loss", "a"),
        ("loss", "b"),
        ("rate", "train"),
    ]
    assert (found[0].x, found[0].y, found[0].unit) == ((1, 2), (1.0, 0.5), "nats")


def test_undefined_figures_and_lone_points_make_no_curve(tmp_path):
    lines = [line("auc", None, step=1), line("auc", 0.6, step=2), line("loss", 0.5, step=1)]
    assert curves_of(tmp_path, lines) == []


@pytest.mark.parametrize("split", ["test:20250103", "day=20250103/test", "test 20250103"])
def test_days_in_the_split_become_the_axis(tmp_path, split):
    days = [20250104, 20250103, 20250105]
    lines = [
        line("auc/click", day % 10 / 10, step=day % 100, split=split.replace("20250103", str(day)))
        for day in days
    ]
    (curve,) = curves_of(tmp_path, lines)
    assert curve.days == ("20250103", "20250104", "20250105")
    assert curve.y == (0.3, 0.4, 0.5)
    assert curve.split == "test"


def test_days_of_an_epoch_are_spread_over_it(tmp_path):
    """Transfer logs loss/<day> with the epoch as the step, whether it trains one epoch or more."""
    lines = [
        line(f"loss/{day}", day % 10 - epoch / 10, step=epoch)
        for epoch in (0, 1)
        for day in (20250101, 20250102)
    ]
    (curve,) = curves_of(tmp_path, lines)
    assert (curve.name, curve.days) == ("loss", ())
    assert curve.x == (0.0, 0.5, 1.0, 1.5)
    assert curve.y == (1.0, 2.0, 0.9, 1.9)
    (one_epoch,) = curves_of(tmp_path, lines[:2])
    assert (one_epoch.days, one_epoch.x) == ((), (0.0, 0.5))
    assert curve.over == one_epoch.over == "epoch"


def test_a_day_field_is_the_axis_and_a_repeated_day_is_not(tmp_path):
    (curve,) = curves_of(
        tmp_path, [line("auc", 0.5, step=day, day=20250100 + day) for day in (1, 2)]
    )
    assert curve.days == ("20250101", "20250102")
    (curve,) = curves_of(tmp_path, [line("auc", 0.5, step=step, day=20250101) for step in (1, 2)])
    assert (curve.days, curve.x, curve.over) == ((), (1.0, 2.0), "step")


def test_loss_and_auc_come_first_and_scenarios_are_details(tmp_path):
    names = ["auc/click/3", "rate", "auc/click/all", "loss"]
    found = curves_of(tmp_path, [line(name, 1.0, step=step) for name in names for step in (1, 2)])
    assert [curve.name for curve in found] == ["loss", "auc/click/3", "auc/click/all", "rate"]
    assert [curve.is_detail for curve in found] == [False, True, False, False]
    drawn = draw_training(found, section="training", styles={})
    names = [picture.name for picture in drawn.pictures]
    assert names == ["training-loss-train", "training-auc-click-all-train", "training-rate-train"]
    assert drawn.note == "metrics.jsonl holds 1 more figure, not drawn here."


def test_long_curves_are_averaged_down(tmp_path):
    (curve,) = curves_of(tmp_path, [line("loss", float(step), step=step) for step in range(1_200)])
    assert len(curve.y) == MAX_POINTS
    assert curve.x == curve.y
    assert sum(curve.y) / MAX_POINTS == pytest.approx(599.5)


def test_torn_and_nameless_lines_are_named(tmp_path):
    with pytest.raises(
        UserError, match=r"metrics.jsonl line 2 has no field name; delete that line"
    ):
        curves_of(tmp_path, [line("loss", 1.0, step=1), {"step": 2, "value": 1.0}])
