"""Which pictures a report has, in the order of its sections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lfm4ads.analysis.curves import Curve
from lfm4ads.analysis.figures import (
    draw_auc,
    draw_curves,
    draw_lifts,
    draw_reliability,
    draw_speed,
)
from lfm4ads.analysis.lift_curves import draw_lift_curves
from lfm4ads.analysis.svg import Picture, Style, arm_styles
from lfm4ads.analysis.words import count

MAX_CURVE_PICTURES = 8
"""Of one section; more would hide the ones that matter."""
MAX_LINES = 60
"""Of one picture of training; more are a blot."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Pictures of one section of curves."""

    pictures: list[Picture]
    curves: list[Curve]
    """What they show, in their order."""
    note: str
    """A sentence about figures that were left out, or empty."""


def draw_results(report: Mapping[str, Any]) -> list[Picture]:
    """Draw lifts and AUC of each task, reliability of each arm, and throughput.

    Args:
        report: the content of ``report.json``.
    """
    styles = report_styles(report)
    tasks = list(dict.fromkeys(row["task"] for row in report["arms"]))
    lifts = [
        draw_lifts(report["lifts"], task=task, styles=styles)
        for task in tasks
        if any(lift["task"] == task for lift in report["lifts"])
    ]
    aucs = [draw_auc(report["arms"], task=task, styles=styles) for task in tasks]
    bins: dict[str, list[Mapping[str, Any]]] = {}
    for row in report["reliability"]:
        bins.setdefault(row["arm"], []).append(row)
    known = any(row["rows_per_second"] is not None for row in report["runs"])
    return [
        *lifts,
        *_lift_curves(report),
        *aucs,
        *(draw_reliability(rows, arm=arm) for arm, rows in bins.items()),
        *([draw_speed(report["runs"], styles=styles)] if known else []),
    ]


def _lift_curves(report: Mapping[str, Any]) -> list[Picture]:
    """Draw the curves of each task: the mean over scenarios first, then those that enter it."""
    entering = {
        row["task"]: ("mean", *row["scenarios"])
        for row in report["lifts"]
        if row["scenario"] == "mean"
    }
    return [
        draw_lift_curves(
            [row for row in report["curves"] if (row["task"], row["scenario"]) == (task, name)],
            baseline=report["baseline"],
        )
        for task, names in entering.items()
        for name in names
        if report["curves"]
    ]


def report_styles(report: Mapping[str, Any]) -> dict[str, Style]:
    """Return how each arm of the report is drawn."""
    return arm_styles(
        list(dict.fromkeys(row["arm"] for row in report["arms"])), baseline=report["baseline"]
    )


def draw_training(
    curves: Sequence[Curve],
    *,
    section: Literal["training", "pretrain"],
    styles: Mapping[str, Style],
) -> Training:
    """Draw logged figures, all runs together; those of one scenario are left out."""
    runs = {curve.run: curve.arm for curve in curves}
    notes: list[str] = []
    if len(runs) > MAX_LINES:
        firsts = {arm: run for run, arm in reversed(runs.items())}
        curves = [curve for curve in curves if firsts[curve.arm] == curve.run]
        notes.append(f"Of {len(runs)} runs the first of each arm is drawn.")
    groups: dict[tuple[str, str, bool], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.name, curve.split, bool(curve.days)), []).append(curve)
    ranked = sorted(groups.values(), key=lambda group: group[0].rank)
    shown = [group for group in ranked if not group[0].is_detail][:MAX_CURVE_PICTURES]
    left = len(ranked) - len(shown)
    if left:
        notes.append(f"metrics.jsonl holds {count(left, noun='more figure')}, not drawn here.")
    return Training(
        pictures=[draw_curves(group, section=section, styles=styles) for group in shown],
        curves=[curve for group in shown for curve in group],
        note=" ".join(notes),
    )
