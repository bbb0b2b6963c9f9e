"""The comparable-sample study as pictures, a table for a terminal and one page."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lfm4ads.analysis.page import page_environment
from lfm4ads.analysis.svg import (
    INK,
    Picture,
    Style,
    arm_styles,
    canvas,
    file_stem,
    to_svg,
)
from lfm4ads.analysis.tables import text_table
from lfm4ads.analysis.words import Row, interval, number, plain, signed

PNG_DOTS_PER_INCH = 160
_MEASURES = {"auc": "AUC", "gauc": "GAUC"}
_BOTH = "mean"
"""Task of rows that average the two of a pair."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One picture in both forms."""

    picture: Picture
    png: bytes


def draw_study(report: Mapping[str, Any]) -> list[Drawn]:
    """Return a picture of AUC for every pair and task: bins beside one another.

    GAUC is in the table and on the page.

    Args:
        report: Content of ``report.json``.
    """
    variants = list(dict.fromkeys(row["variant"] for row in report["figures"]))
    styles = arm_styles(variants, baseline=report["baseline"])
    return [
        _draw_bins(rows, bins=_bins_of(report, pair=pair), styles=styles)
        for (pair, _), rows in _blocks(report).items()
        if any(row["delta_auc"] for row in rows)
    ]


def _blocks(report: Mapping[str, Any]) -> dict[tuple[str, str], list[Row]]:
    """Return the rows of figures by pair and task, in order."""
    blocks: dict[tuple[str, str], list[Row]] = {}
    for row in report["figures"]:
        blocks.setdefault((row["pair"], row["task"]), []).append(row)
    return blocks


def _bins_of(report: Mapping[str, Any], *, pair: str) -> list[Row]:
    """Return the bins of a pair that hold test rows."""
    bins = next(one for one in report["pairs"] if one["name"] == pair)["bins"]
    return [one for one in bins if any(one["rows"].values())]


def _draw_bins(rows: Sequence[Row], *, bins: Sequence[Row], styles: Mapping[str, Style]) -> Drawn:
    """Show each variant's difference from its baseline, bin by bin, with intervals over seeds."""
    pair, task = rows[0]["pair"], rows[0]["task"]
    names = [one["name"] for one in bins]
    shown = [row for row in rows if row["bin"] in names and row["delta_auc"] is not None]
    variants = list(dict.fromkeys(row["variant"] for row in shown))
    name = file_stem("comparable", pair, task)
    title = f"{_task_words(task)}: AUC by bins of {plain(pair)}"
    with canvas(height=3.0 + 0.09 * len(variants)) as (figure, axes):
        axes.axhline(0, color=INK, linewidth=0.9)
        for index, variant in enumerate(variants):
            # Variants stand beside one another, or their intervals would hide each other.
            shift = (index - (len(variants) - 1) / 2) * min(0.12, 0.7 / len(variants))
            own = [row for row in shown if row["variant"] == variant]
            place = np.array([names.index(row["bin"]) for row in own]) + shift
            deltas = [row["delta_auc"] for row in own]
            style = styles[variant]
            axes.plot(
                place,
                [delta["mean"] for delta in deltas],
                color=style.colour,
                marker=style.marker,
                linestyle="",
                markersize=5,
                label=variant,
            )
            for x, delta in zip(place, deltas, strict=True):
                if delta["low"] is not None:
                    axes.plot([x, x], [delta["low"], delta["high"]], color=style.colour)
        axes.set_xticks(range(len(names)), [plain(one).replace(" ", "\n") for one in names])
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_xticks(np.arange(len(names) - 1) + 0.5, minor=True)
        axes.tick_params(axis="x", which="both", length=0)
        axes.grid(visible=False, axis="x")
        axes.grid(visible=True, axis="x", which="minor")
        axes.set_ylabel("AUC over baseline")
        axes.set_title(title)
        figure.legend(loc="outside lower center", ncols=3)
        svg = to_svg(figure, name=name)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=PNG_DOTS_PER_INCH)
    facts = "; ".join(f"{row['variant']} {plain(row['bin'])} {_cell(row, 'auc')}" for row in shown)
    picture = Picture(
        name=name, section=pair, caption="", alt=f"{title}, over the baseline: {facts}.", svg=svg
    )
    return Drawn(picture=picture, png=png.getvalue())


def _task_words(task: str) -> str:
    return "both tasks" if task == _BOTH else plain(task)


def _cell(row: Row, measure: str) -> str:
    """Return a difference with its interval; of a baseline, its own value."""
    delta, own = row[f"delta_{measure}"], row[measure]
    if delta is not None:
        return f"{signed(delta['mean'])} {interval(delta['low'], delta['high'], sign=True)}"
    # A value that stands alone is the baseline's; a missing one is a dash either way.
    return number(own["mean"] if own and row[f"delta_{measure}_values"] is None else None)


def study_table(report: Mapping[str, Any]) -> str:
    """Return, for every measure, pair and task, a row a variant and a column a bin."""
    lines = [_opening(report)]
    for measure, words in _MEASURES.items():
        for (pair, task), rows in _blocks(report).items():
            bins = _bins_of(report, pair=pair)
            cells = {(row["variant"], row["bin"]): _cell(row, measure) for row in rows}
            header = [f"{words} of {_task_words(task)}", *(plain(one["name"]) for one in bins)]
            body = [
                [variant, *(cells[variant, one["name"]] for one in bins)]
                for variant in dict.fromkeys(row["variant"] for row in rows)
            ]
            counts = ["rows, positives", *(_counts(one, task=task) for one in bins)]
            lines += ["", text_table(header, rows=[*body, counts], words=1)]
    return "\n".join(lines)


def _opening(report: Mapping[str, Any]) -> str:
    train, test = report["train_days"], report["test_days"]
    return (
        f"bins of training days {train[0]} to {train[-1]}, rows of {test[0]} to {test[-1]},"
        f" {len(report['seeds'])} seeds; a baseline shows its value, others their difference from"
        " it and its 95 % interval over seeds"
    )


def _counts(one: Row, *, task: str) -> str:
    if task not in one["rows"]:
        return f"{one['users']:,} users"
    return f"{one['rows'][task]:,}, {one['positives'][task]:,}"


def render_study(
    report: Mapping[str, Any], *, pictures: Sequence[Picture], command: str, config: str
) -> str:
    """Return the study as one HTML page that opens offline.

    Args:
        report: Content of ``report.json``.
        pictures: Of ``draw_study``.
        command: What makes the study again.
        config: Its config as YAML.
    """
    return (
        page_environment()
        .get_template("comparable.html.j2")
        .render(report=report, pictures=pictures, command=command, config=config)
    )
