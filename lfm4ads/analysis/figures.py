"""The pictures of a report, one question each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from lfm4ads.analysis.curves import Curve
from lfm4ads.analysis.svg import (
    INK,
    MARKERS,
    MUTED,
    PALETTE,
    PAPER,
    Picture,
    Style,
    canvas,
    file_stem,
    finish,
    legend_below,
)
from lfm4ads.analysis.words import interval, plain, signed

Row = Mapping[str, Any]
_OFF = " The truth lies off to the right."


def draw_lifts(lifts: Sequence[Row], *, task: str, styles: Mapping[str, Style]) -> Picture:
    """Show each arm's AUC lift on one task: mean over scenarios filled, pooled hollow."""
    shown = [row for row in lifts if row["task"] == task and row["scenario"] in ("mean", "all")]
    arms = list(dict.fromkeys(row["arm"] for row in shown))
    baseline, name = shown[0]["baseline"], file_stem("lifts", task)
    facts = "; ".join(
        f"{row['arm']} {'pooled' if row['scenario'] == 'all' else 'scenario mean'} "
        f"{signed(row['delta_auc'])} {interval(row['low'], row['high'], sign=True)}"
        for row in shown
    )
    limits = _limits(shown, keys=("delta_auc", "low", "high"), foot=0.0)
    with canvas(height=_height(arms)) as (figure, axes):
        axes.axvline(0, color=INK, linewidth=0.9)
        for row in shown:
            place = arms.index(row["arm"]) + (0.15 if row["scenario"] == "all" else -0.15)
            if limits and row["arm"] == "oracle":
                what = "pooled" if row["scenario"] == "all" else "mean"
                words = f"{what} {signed(row['delta_auc'])} \N{RIGHTWARDS ARROW}"
                _words_at(axes, place=place, words=words, side="right")
                continue
            _dot(
                axes,
                row=row,
                keys=("delta_auc", "low", "high"),
                place=place,
                style=styles[row["arm"]],
            )
        axes.set_xlim(limits)
        _name_rows(axes, names=arms)
        axes.set_title(f"{plain(task)}: lift over {baseline}")
        axes.set_xlabel("AUC lift and its 95 % interval")
        return finish(
            figure,
            name=name,
            section="lifts",
            caption=f"{plain(task)}: filled marks are the mean over scenarios, hollow ones pooled; "
            f"intervals cover rows and seeds.{_OFF * bool(limits)}",
            alt=f"Lifts over {baseline}: {facts}.",
        )


def _limits(
    shown: Sequence[Row], *, keys: tuple[str, str, str], foot: float | None = None
) -> tuple[float, float] | None:
    """Return the axis of the arms where the truth is so far off that it would flatten them."""
    ends: dict[bool, list[float]] = {True: [], False: [] if foot is None else [foot]}
    for row in shown:
        values = (row[key] for key in keys)
        ends[row["arm"] == "oracle"] += [value for value in values if value is not None]
    if not ends[True] or len(ends[False]) < 2:
        return None
    low, high = min(ends[False]), max(ends[False])
    margin = 0.06 * (high - low)
    far = max(ends[True]) > high + (high - low)
    return (low - margin, high + margin) if far else None


def draw_auc(rows: Sequence[Row], *, task: str, styles: Mapping[str, Style]) -> Picture:
    """Show every run's pooled test AUC on one task, one dot a seed."""
    shown = [
        r for r in rows if r["task"] == task and r["split"] == "test" and r["scenario"] == "all"
    ]
    arms = list(dict.fromkeys(row["arm"] for row in shown))
    facts = "; ".join(
        f"{r['arm']} seed {r['seed']} {interval(r['auc_low'], r['auc_high'])}" for r in shown
    )
    keys = ("auc", "auc_low", "auc_high")
    limits = _limits(shown, keys=keys)
    with canvas(height=_height(arms)) as (figure, axes):
        for row, place in _seed_places(shown, arms=arms):
            if limits and row["arm"] == "oracle":
                words = f"{row['auc']:.4f} \N{RIGHTWARDS ARROW}"
                _words_at(axes, place=place, words=words, side="right")
                continue
            size = 5 if len(arms) <= 12 else 3
            _dot(axes, row=row, keys=keys, place=place, style=styles[row["arm"]], size=size)
        axes.set_xlim(limits)
        _name_rows(axes, names=arms)
        axes.set_title(f"{plain(task)}: pooled AUC")
        axes.set_xlabel("AUC and its 95 % interval")
        return finish(
            figure,
            name=file_stem("auc", task),
            section="auc",
            caption=f"{plain(task)}: pooled test AUC, one mark a seed.{_OFF * bool(limits)}",
            alt=f"AUC intervals: {facts}.",
        )


def draw_speed(runs: Sequence[Row], *, styles: Mapping[str, Style]) -> Picture:
    """Show the training throughput of every run that recorded it, one dot a run."""
    shown = [row for row in runs if row["rows_per_second"] is not None]
    arms = list(dict.fromkeys(row["arm"] for row in shown))
    facts = "; ".join(
        f"{row['arm']} seed {row['seed']} {row['rows_per_second']:,.0f}" for row in shown
    )
    with canvas(height=_height(arms)) as (figure, axes):
        for row, place in _seed_places(shown, arms=arms):
            style = styles[row["arm"]]
            kilo = row["rows_per_second"] / 1000
            axes.plot(kilo, place, marker=style.marker, color=style.colour, linestyle="none")
        _name_rows(axes, names=arms)
        axes.set_xlim(left=0)
        axes.set_title("training throughput")
        axes.set_xlabel("thousand rows a second")
        return finish(
            figure,
            name="speed",
            section="speed",
            caption="One mark a run: further right is faster, on whatever machine it ran.",
            alt=f"Rows per second: {facts}.",
        )


def _seed_places(shown: Sequence[Row], *, arms: Sequence[str]) -> list[tuple[Row, float]]:
    """Spread the rows of each arm around its line."""
    places: list[tuple[Row, float]] = []
    for index, arm in enumerate(arms):
        seeds = [row for row in shown if row["arm"] == arm]
        offsets = np.linspace(-0.24, 0.24, len(seeds)) if len(seeds) > 1 else [0.0]
        places += [(row, index + float(offset)) for row, offset in zip(seeds, offsets, strict=True)]
    return places


def _dot(
    axes: Axes,
    *,
    row: Row,
    keys: tuple[str, str, str],
    place: float,
    style: Style,
    size: float = 7,
) -> None:
    value, low, high = (row[key] for key in keys)
    if value is None:
        _words_at(axes, place=place, words="undefined", side="center")
        return
    if low is not None and high is not None:
        axes.plot(
            [low, high],
            [place, place],
            color=style.colour,
            linewidth=size / 4.5,
            solid_capstyle="butt",
        )
    hollow = row["scenario"] == "all" and "delta_auc" in row
    axes.plot(
        [value],
        [place],
        marker=style.marker,
        markersize=size,
        color=style.colour,
        markerfacecolor=PAPER if hollow else style.colour,
        linestyle="none",
    )


def _words_at(axes: Axes, *, place: float, words: str, side: str) -> None:
    """Write where a mark cannot be."""
    x = {"center": 0.5, "right": 0.99}[side]
    at = ("axes fraction", "data")
    axes.annotate(words, (x, place), xycoords=at, color=MUTED, va="center", ha=side, fontsize=8.5)


def _height(arms: Sequence[str]) -> float:
    """Return inches that keep few arms airy and many on one screen."""
    return 1.2 + (0.46 if len(arms) <= 12 else 0.28) * len(arms)


def _name_rows(axes: Axes, *, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.locator_params(axis="x", nbins=5)


def draw_reliability(rows: Sequence[Row], *, arm: str) -> Picture:
    """Show predicted against observed rates of one arm, on log scales as ads rates are small.

    Args:
        rows: rows of ``reliability`` in ``report.json``, one a task.
        arm: whose they are.
    """
    predicted = [np.array([one["predicted"] for one in row["bins"]]) for row in rows]
    observed = [np.array([one["observed"] for one in row["bins"]]) for row in rows]
    rates = np.concatenate([*predicted, *observed])
    floor = float(rates[rates > 0].min()) * 0.6 if (rates > 0).any() else 1e-4
    top = min(1.0, float(rates.max()) * 1.6) if rates.size else 1.0
    facts = "; ".join(
        f"{plain(row['task'])} from predicted {x[0]:.2g} observed {y[0]:.2g} "
        f"to predicted {x[-1]:.2g} observed {y[-1]:.2g}"
        for row, x, y in zip(rows, predicted, observed, strict=True)
    )
    with canvas(height=3.4) as (figure, axes):
        line = {"color": MUTED, "linewidth": 0.9, "linestyle": "--"}
        axes.plot([floor, 1], [floor, 1], label="perfect", **line)
        for index, (row, x, y) in enumerate(zip(rows, predicted, observed, strict=True)):
            look: dict[str, Any] = {
                "color": PALETTE[index % len(PALETTE)],
                "marker": MARKERS[index % len(MARKERS)],
                "markersize": 5,
            }
            axes.plot(x[y > 0], y[y > 0], linewidth=1.1, label=plain(row["task"]), **look)
            foot = np.full((y <= 0).sum(), floor)
            axes.plot(x[y <= 0], foot, markerfacecolor=PAPER, linestyle="none", **look)
        axes.set(xscale="log", yscale="log", xlabel="predicted rate", ylabel="observed rate")
        axes.set(xlim=(floor, top), ylim=(floor * 0.9, top))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if top < 200 * floor else (1,)))
            axis.set_major_formatter(lambda rate, _: f"{rate:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", labelrotation=45)
        axes.set_title(arm)
        axes.legend(loc="upper left")
        return finish(
            figure,
            name=file_stem("reliability", arm),
            section="reliability",
            alt=f"Reliability of {arm}: {facts}.",
        )


def draw_curves(curves: Sequence[Curve], *, section: str, styles: Mapping[str, Style]) -> Picture:
    """Show one logged figure of all runs: a line a run, over steps or days."""
    first = curves[0]
    days = sorted({day for curve in curves for day in curve.days})
    facts = "; ".join(f"{curve.run} from {curve.y[0]:.4g} to {curve.y[-1]:.4g}" for curve in curves)
    arms = list(dict.fromkeys(curve.arm for curve in curves))
    with canvas(height=2.7) as (figure, axes):
        for curve in curves:
            style = styles.get(curve.arm, Style(colour=PALETTE[0], marker="o"))
            is_first = curve is next(one for one in curves if one.arm == curve.arm)
            axes.plot(
                [days.index(day) for day in curve.days] if days else curve.x,
                curve.y,
                color=style.colour,
                marker=style.marker,
                # Long lines keep some marks, as colour alone must not tell who is who.
                markevery=max(1, len(curve.y) // 8),
                markersize=4,
                linewidth=1,
                label=curve.arm if is_first and len(styles) > 1 else None,
            )
        if days:
            shown = range(0, len(days), -(-len(days) // 6))
            names = [f"{days[place][4:6]}-{days[place][6:]}" for place in shown]
            axes.set_xticks(list(shown), names)
        else:
            whole = all(float(x).is_integer() for curve in curves for x in curve.x)
            whole = whole or max(curve.x[-1] for curve in curves) > 2
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=whole))
        over = "epoch, day after day" if first.over == "epoch" else "step"
        axes.set_xlabel("day (month-day)" if days else over)
        axes.set_title(first.title + (f", {first.unit}" if first.unit else ""))
        if len(arms) > 1 and len(styles) > 1:
            legend_below(figure)
        name = file_stem(section, first.name, first.split, "by-day" if days else "")
        return finish(figure, name=name, section=section, alt=f"{first.title}: {facts}.")
