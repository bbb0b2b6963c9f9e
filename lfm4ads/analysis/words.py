"""Figures as words: numbers with their intervals, sentences, and aligned plain text."""

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]
DASH = "\N{EN DASH}"
POOLED_WARNING = (
    "pooled AUC is inflated by click-rate gaps between scenarios; read the per-scenario mean"
)


def plain(name: str) -> str:
    """Return a task's name as words."""
    return name.replace("_", " ")


def number(value: float | None, *, digits: int = 4) -> str:
    """Return a figure, or an en dash where it is undefined."""
    return DASH if value is None else f"{value:,.{digits}f}"


def signed(value: float | None, *, digits: int = 4) -> str:
    """Return a difference with its sign, or an en dash."""
    return DASH if value is None else f"{value:+.{digits}f}"


def interval(low: float | None, high: float | None, *, sign: bool = False, digits: int = 4) -> str:
    """Return ``[low, high]``, or an en dash where either end is undefined."""
    show = signed if sign else number
    return (
        DASH
        if low is None or high is None
        else f"[{show(low, digits=digits)}, {show(high, digits=digits)}]"
    )


def count(value: float, *, noun: str) -> str:
    """Return ``1,600 positives`` or ``1 positive``."""
    return f"{value:,} {noun if value == 1 else noun + 's'}"


def headline(lift: Row) -> str:
    """Return a sentence on an arm and task: what it does to AUC, how surely, on how much data."""
    low, high, task = lift["low"], lift["high"], plain(lift["task"])
    where = "pooled AUC" if lift["scenario"] == "all" else "AUC"
    data = (
        f"{count(lift['num_seeds'], noun='seed')}, {count(lift['rows'], noun='row')}, "
        f"{count(lift['positives'], noun='positive')}"
    )
    if lift["scenario"] == "mean":
        data = f"mean over {count(len(lift['scenarios']), noun='scenario')}, {data}"
    if lift["delta_auc"] is None:
        return (
            f"{lift['arm']} has no defined lift of {task} {where} over {lift['baseline']}, {data}"
        )
    size = f"{signed(lift['delta_auc'])} {interval(low, high, sign=True)}"
    over = f"over {lift['baseline']}"
    match (low, high):
        case (float(), float()) if low > 0:
            return f"{lift['arm']} lifts {task} {where} by {size} {over}, {data}"
        case (float(), float()) if high < 0:
            return f"{lift['arm']} lowers {task} {where} by {size} {over}, {data}"
        case _:
            return f"{lift['arm']} does not clearly change {task} {where}: {size} {over}, {data}"


def why_undefined(row: Row, *, field: str) -> str:
    """Say why a figure is an en dash, in words for a tooltip."""
    rows, positives = row.get("rows"), row.get("positives")
    reasons = (
        (rows is None, "the run did not record it"),
        (not rows, "no labelled rows here"),
        (not positives, "no positives here"),
        (positives == rows, "only positives here"),
        (field in ("low", "high", "delta_auc"), "too few rows of one class for an interval"),
        (field == "share", "there is no gap here, or too few rows of one class"),
        (row.get("scenario") == "mean", "not defined for a mean over scenarios"),
        (field == "gauc", "no user has both outcomes here"),
        (field == "auc_low", "too few rows of one class for an interval"),
    )
    return next((reason for holds, reason in reasons if holds), "not defined for these rows")
