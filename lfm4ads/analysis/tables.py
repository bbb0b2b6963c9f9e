"""Tables for a terminal: a row an arm or a variant, whatever the number of scenarios or figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lfm4ads.analysis.words import Row, count, interval, number, plain, signed

Key = tuple[str, str, str]
"""Arm, task, scenario."""
MAX_SCENARIOS = 8
"""More columns than that do not fit a terminal."""
_NO_LIFT = {"delta_auc": None, "low": None, "high": None}
_NO_GAP = {"share": None, "low": None, "high": None}


def text_table(header: Sequence[str], *, rows: Sequence[Sequence[str]], words: int) -> str:
    """Return aligned plain text: the first ``words`` columns to the left, figures to the right."""
    widths = [max(len(line[place]) for line in (header, *rows)) for place in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def arms_table(report: Mapping[str, Any]) -> str:
    """Return test AUCs of each arm by scenario, their mean and its lift: a row an arm and task.

    Args:
        report: the content of a report's ``report.json``.
    """
    means = {_key(row): row for row in report["means"] if row["split"] == "test"}
    tasks = list(dict.fromkeys(task for _, task, _ in means))
    names = dict.fromkeys(name for _, _, name in means if name not in ("all", "mean"))
    scenarios = sorted(names, key=lambda name: (int(name), "") if name.isdigit() else (-1, name))
    shown = scenarios if len(scenarios) <= MAX_SCENARIOS else []
    header = ["arm", "task", *shown, "mean", "lift", "95 % interval", ""]
    header += ["gap closed", "95 % interval"] if report["gap_closed"] else []
    rows = [
        _arm_row(report, means=means, place=(arm, task), scenarios=shown)
        for task in tasks
        for arm in dict.fromkeys(arm for arm, of, _ in means if of == task)
    ]
    notes = [_mean_note(means, report=report, task=task) for task in tasks]
    left = f"; {len(scenarios)} scenarios are there too" if not shown else ""
    mark = f"* the interval leaves out zero; lifts by scenario are in report.html{left}"
    return "\n".join([text_table(header, rows=rows, words=2), "", *notes, mark])


def _key(row: Row) -> Key:
    return row["arm"], row["task"], row["scenario"]


def _arm_row(
    report: Mapping[str, Any],
    *,
    means: Mapping[Key, Row],
    place: tuple[str, str],
    scenarios: Sequence[str],
) -> list[str]:
    key = (*place, "mean")
    cells = [means.get((*place, name), {"auc": None})["auc"] for name in scenarios]
    lift = next((one for one in report["lifts"] if _key(one) == key), _NO_LIFT)
    words = [
        place[0],
        plain(place[1]),
        *(number(auc) for auc in (*cells, means[key]["auc"])),
        signed(lift["delta_auc"]),
        interval(lift["low"], lift["high"], sign=True),
        "*" if leaves_out_zero(lift) else "",
    ]
    if report["gap_closed"]:
        gap = next((one for one in report["gap_closed"] if _key(one) == key), _NO_GAP)
        words += [number(gap["share"], digits=3), interval(gap["low"], gap["high"], digits=3)]
    return words


def leaves_out_zero(lift: Row) -> bool:
    """Whether a lift is surely above or surely below nothing."""
    low, high = lift["low"], lift["high"]
    return low is not None and high is not None and (low > 0 or high < 0)


def _mean_note(means: Mapping[Key, Row], *, report: Mapping[str, Any], task: str) -> str:
    row = next(row for (_, of, name), row in means.items() if of == task and name == "mean")
    scenarios = row["scenarios"]
    which = f"{', '.join(scenarios)} with" if scenarios else "none has"
    return (
        f"{plain(task)}: mean over {count(len(scenarios), noun='scenario')} ({which} at least"
        f" {report['min_positives']} positives), {count(row['num_seeds'], noun='seed')},"
        f" {count(row['rows'], noun='test row')}, {count(row['positives'], noun='positive')}"
    )


def variants_table(report: Mapping[str, Any]) -> str:
    """Return the figures of an experiment of pretrain: a row a variant, a column a figure.

    Time and speed are medians over seeds, relative to the first variant's.

    Args:
        report: the content of the experiment's ``report.json``.
    """
    figures = list(dict.fromkeys(row["figure"] for row in report["figures"]))
    cells = {(row["variant"], row["figure"]): _figure_cell(row) for row in report["figures"]}
    first = next(iter(report["cost"].values()))
    rows = [
        [
            variant,
            *(cells[variant, figure] for figure in figures),
            *(f"{cost['num_parameters'][name]:,}" for name in ("tables", "dense")),
            *_cost_cells(cost, first=first),
        ]
        for variant, cost in report["cost"].items()
    ]
    header = ["variant", *map(plain, figures), "in tables", "dense", "time", "rows/s", "speed"]
    return text_table(header, rows=rows, words=1 + len(figures))


def _cost_cells(cost: Row, *, first: Row) -> list[str]:
    """Return the time over that of the first variant, rows per second, and these over its own."""
    seconds, first_seconds = (_middle(one["seconds"]) for one in (cost, first))
    speed, first_speed = (_middle(one["rows_per_second"]) for one in (cost, first))
    return [
        number(_ratio(seconds, first_seconds), digits=2),
        number(speed, digits=0),
        number(_ratio(speed, first_speed), digits=2),
    ]


def _ratio(value: float | None, of: float | None) -> float | None:
    return value / of if value is not None and of else None


def _middle(values: Sequence[float | None]) -> float | None:
    """Return the median; None where a run did not report the value."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known and len(known) == len(values) else None


def _figure_cell(row: Row) -> str:
    words = number(row["mean"]["mean"])
    lift = row["lift"]
    if lift is None:
        return words
    return f"{words} {signed(lift['mean'])} {interval(lift['low'], lift['high'], sign=True)}"
