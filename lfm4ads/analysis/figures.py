"""The pictures of a report, one question each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from lfm4ads.analysis.curves import Curve
from lfm4ads.analysis.reliability import Reliability
from lfm4ads.analysis.svg import (
    INK,
    MUTED,
    PALETTE,
    PAPER,
    Picture,
    Style,
    canvas,
    file_stem,
    to_svg,
)
from lfm4ads.analysis.words import interval, plain, signed

Row = Mapping[str, Any]


def draw_lifts(lifts: Sequence[Row], *, task: str, styles: Mapping[str, Style]) -> Picture:
    """Show each arm's AUC lift on one task: mean over scenarios filled, pooled hollow."""
    shown = [row for row in lifts if row["task"] == task and row["scenario"] in ("mean", "all")]
    arms = list(dict.fromkeys(row["arm"] for row in shown))
    baseline, name = shown[0]["baseline"], file_stem("lifts", task)
    with canvas(height=_height(arms)) as (figure, axes):
        axes.axvline(0, color=INK, linewidth=0.9)
        for row in shown:
            place = arms.index(row["arm"]) + (0.15 if row["scenario"] == "all" else -0.15)
            _dot(
                axes,
                row=row,
                keys=("delta_auc", "low", "high"),
                place=place,
                style=styles[row["arm"]],
            )
        _name_rows(axes, names=arms)
        axes.set_title(f"{plain(task)}: lift over {baseline}")
        axes.set_xlabel("AUC lift and its 95 % interval")
        svg = to_svg(figure, name=name)
    facts = "; ".join(
        f"{row['arm']} {'pooled' if row['scenario'] == 'all' else 'scenario mean'} "
        f"{signed(row['delta_auc'])} {interval(row['low'], row['high'], sign=True)}"
        for row in shown
    )
    caption = (
        f"{plain(task)}: filled marks are the mean over scenarios, hollow ones pooled; "
        "intervals cover rows and seeds."
    )
    return Picture(
        name=name, section="lifts", caption=caption, alt=f"Lifts over {baseline}: {facts}.", svg=svg
    )


def draw_auc(rows: Sequence[Row], *, task: str, styles: Mapping[str, Style]) -> Picture:
    """Show every run's pooled test AUC on one task, one dot a seed."""
    shown = [
        r for r in rows if r["task"] == task and r["split"] == "test" and r["scenario"] == "all"
    ]
    arms = list(dict.fromkeys(row["arm"] for row in shown))
    name = file_stem("auc", task)
    with canvas(height=_height(arms)) as (figure, axes):
        for arm in arms:
            seeds = [row for row in shown if row["arm"] == arm]
            offsets = np.linspace(-0.24, 0.24, len(seeds)) if len(seeds) > 1 else [0.0]
            for row, offset in zip(seeds, offsets, strict=True):
                place = arms.index(arm) + float(offset)
                _dot(
                    axes,
                    row=row,
                    keys=("auc", "auc_low", "auc_high"),
                    place=place,
                    style=styles[arm],
                )
        _name_rows(axes, names=arms)
        axes.set_title(f"{plain(task)}: pooled AUC")
        axes.set_xlabel("AUC and its 95 % interval")
        svg = to_svg(figure, name=name)
    facts = "; ".join(
        f"{r['arm']} seed {r['seed']} {interval(r['auc_low'], r['auc_high'])}" for r in shown
    )
    caption = f"{plain(task)}: pooled test AUC, one mark a seed."
    return Picture(
        name=name, section="auc", caption=caption, alt=f"AUC intervals: {facts}.", svg=svg
    )


def _dot(axes: Axes, *, row: Row, keys: tuple[str, str, str], place: float, style: Style) -> None:
    value, low, high = (row[key] for key in keys)
    if value is None:
        axes.annotate(
            "undefined", (0.5, place), xycoords=("axes fraction", "data"), color=MUTED, va="center"
        )
        return
    if low is not None and high is not None:
        axes.plot(
            [low, high], [place, place], color=style.colour, linewidth=1.6, solid_capstyle="butt"
        )
    hollow = row["scenario"] == "all" and "delta_auc" in row
    axes.plot(
        [value],
        [place],
        marker=style.marker,
        markersize=7,
        color=style.colour,
        markerfacecolor=PAPER if hollow else style.colour,
        linestyle="none",
    )


def _height(arms: Sequence[str]) -> float:
    """Return inches that keep few arms airy and many on one screen."""
    return 1.2 + (0.46 if len(arms) <= 12 else 0.26) * len(arms)


def _name_rows(axes: Axes, *, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.locator_params(axis="x", nbins=6)


def draw_reliability(bins: Sequence[Reliability], *, arm: str) -> Picture:
    """Show predicted against observed rates of one arm, on log scales as ads rates are small."""
    rates = np.concatenate([np.concatenate([one.predicted_B, one.observed_B]) for one in bins])
    floor = float(rates[rates > 0].min()) * 0.6 if (rates > 0).any() else 1e-4
    name = file_stem("reliability", arm)
    with canvas(height=3.6) as (figure, axes):
        axes.plot(
            [floor, 1], [floor, 1], color=MUTED, linewidth=0.9, linestyle="--", label="perfect"
        )
        for index, one in enumerate(bins):
            colour = PALETTE[index % len(PALETTE)]
            seen_B = one.observed_B > 0
            seen = (one.predicted_B[seen_B], one.observed_B[seen_B])
            axes.plot(*seen, "o-", color=colour, markersize=4, linewidth=1.1, label=plain(one.task))
            foot = (one.predicted_B[~seen_B], np.full((~seen_B).sum(), floor))
            axes.plot(*foot, "v", color=colour, markerfacecolor=PAPER)
        axes.set(xscale="log", yscale="log", xlabel="predicted rate", ylabel="observed rate")
        top = min(1.0, float(rates.max()) * 1.6) if rates.size else 1.0
        axes.set(xlim=(floor, top), ylim=(floor * 0.9, top))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
            axis.set_major_formatter(lambda rate, _: f"{rate:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", labelrotation=45)
        axes.set_title(arm)
        axes.legend(loc="upper left")
        svg = to_svg(figure, name=name)
    facts = "; ".join(
        f"{plain(one.task)} "
        f"from predicted {one.predicted_B[0]:.2g} observed {one.observed_B[0]:.2g} "
        f"to predicted {one.predicted_B[-1]:.2g} observed {one.observed_B[-1]:.2g}"
        for one in bins
    )
    alt = f"Reliability of {arm}: {facts}."
    return Picture(name=name, section="reliability", caption="", alt=alt, svg=svg)


def draw_curves(curves: Sequence[Curve], *, section: str, styles: Mapping[str, Style]) -> Picture:
    """Show one logged figure of all runs: a line a run, over steps or days."""
    first = curves[0]
    days = sorted({day for curve in curves for day in curve.days})
    name = file_stem(section, first.name, first.split, "by-day" if days else "")
    arms = {curve.arm for curve in curves}
    # A legend of many rows takes its own room, not the curves'.
    with canvas(height=2.7 + 0.17 * max(0, len(arms) // 4 - 2)) as (figure, axes):
        named: set[str] = set()
        for curve in curves:
            style = styles.get(curve.arm, Style(colour=PALETTE[0], marker="o"))
            x = [days.index(day) for day in curve.days] if days else curve.x
            label = curve.arm if curve.arm not in named and len(styles) > 1 else None
            named.add(curve.arm)
            marker = style.marker if len(x) <= 40 else ""
            axes.plot(
                x,
                curve.y,
                color=style.colour,
                marker=marker,
                markersize=3,
                linewidth=1,
                label=label,
            )
        if days:
            shown = range(0, len(days), max(1, len(days) // 6))
            axes.set_xticks(
                list(shown), [f"{days[place][4:6]}-{days[place][6:]}" for place in shown]
            )
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_xlabel("day (month-day)" if days else "step")
        axes.set_title(first.title + (f", {first.unit}" if first.unit else ""))
        if len(named) > 1:
            figure.legend(loc="outside lower center", ncols=4)
        svg = to_svg(figure, name=name)
    facts = "; ".join(f"{curve.run} from {curve.y[0]:.4g} to {curve.y[-1]:.4g}" for curve in curves)
    return Picture(name=name, section=section, caption="", alt=f"{first.title}: {facts}.", svg=svg)
