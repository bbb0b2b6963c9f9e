"""Which pictures a report has, in the order of its sections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lfm4ads.analysis.curves import Curve
from lfm4ads.analysis.figures import draw_auc, draw_curves, draw_lifts, draw_reliability
from lfm4ads.analysis.lift_curves import draw_lift_curves
from lfm4ads.analysis.reliability import Reliability, reliability
from lfm4ads.analysis.svg import Picture, Style, arm_styles
from lfm4ads.analysis.words import count
from lfm4ads.data.scored import Scored

MAX_CURVE_PICTURES = 8
"""Of one section; more would hide the ones that matter."""
MAX_LINES = 60
"""Of one picture of training; more are a blot."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Pictures of one section of curves."""

    pictures: list[Picture]
    note: str
    """A sentence about figures that were left out, or empty."""


def draw_results(report: Mapping[str, Any], *, rows: Scored) -> list[Picture]:
    """Draw lifts and AUC of each task and reliability of each arm.

    Args:
        report: the content of ``report.json``.
        rows: the test rows.
    """
    styles = report_styles(report)
    lifts = [
        draw_lifts(report["lifts"], task=task, styles=styles)
        for task in rows.tasks
        if any(lift["task"] == task for lift in report["lifts"])
    ]
    curves = _lift_curves(report)
    aucs = [draw_auc(report["arms"], task=task, styles=styles) for task in rows.tasks]
    bins = [
        (arm, _reliability(rows, arm=arm)) for arm in dict.fromkeys(arm for arm, _ in rows.logit_N)
    ]
    return [*lifts, *curves, *aucs, *(draw_reliability(one, arm=arm) for arm, one in bins if one)]


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


def _reliability(rows: Scored, *, arm: str) -> list[Reliability]:
    found = []
    for task in rows.tasks:
        seeds = [
            rows.logit_N[arm, seed][task]
            for seed in rows.seeds(arm)
            if task in rows.logit_N[arm, seed]
        ]
        labelled = rows.cells(task)["all"]
        if seeds and labelled.size:
            logit_M = np.concatenate([logit_N[labelled] for logit_N in seeds])
            label_M = np.tile(rows.label_N[task][labelled], len(seeds))
            found.append(reliability(label_M, logit_N=logit_M, task=task))
    return found


def draw_training(
    curves: Sequence[Curve],
    *,
    section: Literal["training", "pretrain"],
    styles: Mapping[str, Style],
) -> Training:
    """Draw logged figures, all runs together; those of one scenario are left out."""
    runs = {curve.run for curve in curves}
    if len(runs) > MAX_LINES:
        words = (
            f"{len(runs)} runs logged figures, too many for one picture: see their metrics.jsonl."
        )
        return Training(pictures=[], note=words)
    groups: dict[tuple[str, str, bool], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.name, curve.split, bool(curve.days)), []).append(curve)
    ranked = sorted(groups.values(), key=lambda group: group[0].rank)
    shown = [group for group in ranked if not group[0].is_detail][:MAX_CURVE_PICTURES]
    left = len(ranked) - len(shown)
    note = f"metrics.jsonl holds {count(left, noun='more figure')}, not drawn here."
    return Training(
        pictures=[draw_curves(group, section=section, styles=styles) for group in shown],
        note=note if left else "",
    )
