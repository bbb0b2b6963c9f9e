"""The picture of lifts by the layer that an arm reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lfm4ads.analysis.svg import (
    INK,
    MARKERS,
    PALETTE,
    Picture,
    canvas,
    file_stem,
    finish,
    legend_below,
)
from lfm4ads.analysis.words import interval, plain, signed

Row = Mapping[str, Any]


def draw_lift_curves(rows: Sequence[Row], *, baseline: str) -> Picture:
    """Show the curves of one task and scenario: lifts and intervals, a line a curve.

    Args:
        rows: rows of ``curves`` in ``report.json``, one a curve.
        baseline: the arm whose AUC is the zero line.
    """
    task, scenario = rows[0]["task"], rows[0]["scenario"]
    where = "mean over scenarios" if scenario == "mean" else f"scenario {scenario}"
    labels = merge_labels([[point["label"] for point in row["points"]] for row in rows])
    name = file_stem("curves", task, scenario)
    facts = "; ".join(
        f"{row['curve']} {point['label']} {signed(point['delta_auc'])}"
        f" {interval(point['low'], point['high'], sign=True)}"
        for row in rows
        for point in row["points"]
    )
    alt = f"{plain(task)}, {where}, lifts over {baseline}: {facts}."
    with canvas(height=3.2) as (figure, axes):
        axes.axhline(0, color=INK, linewidth=0.9)
        for index, row in enumerate(rows):
            # Curves stand a little beside one another, or their intervals would hide each other.
            shift = (index - (len(rows) - 1) / 2) * min(0.12, 0.5 / len(rows))
            known = [point for point in row["points"] if point["delta_auc"] is not None]
            place = np.array([labels.index(point["label"]) for point in known]) + shift
            colour = PALETTE[index % len(PALETTE)]
            axes.plot(
                place,
                [point["delta_auc"] for point in known],
                color=colour,
                marker=MARKERS[(index + index // len(PALETTE)) % len(MARKERS)],
                markersize=5,
                linewidth=1.2,
                label=row["curve"],
            )
            for x, point in zip(place, known, strict=True):
                if point["low"] is not None and point["high"] is not None:
                    axes.plot([x, x], [point["low"], point["high"]], color=colour, linewidth=1)
        slant = 45 if sum(map(len, labels)) > 40 else 0
        axes.set_xticks(
            range(len(labels)), labels, rotation=slant, ha="right" if slant else "center"
        )
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel(f"AUC lift over {baseline}")
        alone = f", {rows[0]['curve']}" if len(rows) == 1 else ""
        axes.set_title(f"{plain(task)}: {where}{alone}")
        if len(rows) > 1:
            legend_below(figure)
        return finish(figure, name=name, section="curves", alt=alt)


def merge_labels(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return every label once, as far as can be in the order of each line, the longest first."""
    merged: list[str] = []
    for line in sorted(lines, key=len, reverse=True):
        for place, label in enumerate(line):
            if label not in merged:
                later = [merged.index(other) for other in line[place + 1 :] if other in merged]
                merged.insert(min(later, default=len(merged)), label)
    return merged
