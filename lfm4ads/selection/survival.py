"""Times and events as people hand them in."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lfm4ads.core.errors import UserError
from lfm4ads.selection.columns import Floats


@dataclass(frozen=True)
class Survival:
    """When every row was last seen, and whether that was its event (1) or not (0)."""

    time_N: Floats
    event_N: Floats


def read_survival(y: Any) -> Survival:
    """Return times and events.

    Taken are a structured array with one boolean and one numeric field, two columns (time, event),
    or times alone, all of which then are events.
    """
    values = np.asarray(y)
    if values.dtype.names is not None:
        return _check(*_fields(values))
    if values.ndim == 2 and values.shape[1] == 2:
        return _check(values[:, 0], values[:, 1])
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise UserError(
            f"y has shape {values.shape}; a Cox model takes times (n,) or times and events (n, 2)"
        )
    return _check(values, np.ones(len(values)))


def _fields(values: Any) -> tuple[Any, Any]:
    names: tuple[str, ...] = values.dtype.names
    events = [name for name in names if values.dtype[name].kind == "b"]
    if len(names) != 2 or len(events) != 1:
        raise UserError(
            f"y has fields {', '.join(names)}; give one boolean (event) and one number (time)"
        )
    return values[next(name for name in names if name != events[0])], values[events[0]]


def _check(time: Any, event: Any) -> Survival:
    time_N, event_N = np.asarray(time, dtype=np.float64), np.asarray(event, dtype=np.float64)
    for name, values in (("time", time_N), ("event", event_N)):
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise UserError(
                f"y holds NaN or infinity: the {name} of row {row} is {values[row]}; drop such rows"
            )
    if not np.isin(event_N, (0.0, 1.0)).all():
        wrong = event_N[~np.isin(event_N, (0.0, 1.0))][0]
        raise UserError(f"an event is {wrong:g}; events are 1 and censored rows 0")
    return Survival(time_N, event_N)


def concordance(risk_N: Floats, survival: Survival, *, weight_N: Floats | None = None) -> float:
    """Return Harrell's C: the share of comparable pairs in which the earlier event had more risk.

    Equal risks count half. Rows are compared through ranks in a tree, O(N log N); a pair weighs the
    product of its rows' weights.
    """
    weight_N = np.ones(len(risk_N)) if weight_N is None else weight_N
    _, place_N = np.unique(risk_N, return_inverse=True)
    tree = np.zeros(int(place_N.max(initial=0)) + 2)
    # Latest first; at one time censored rows were seen longer than events, so they enter first.
    order = np.lexsort((survival.event_N, -survival.time_N))
    good = pairs = 0.0
    at = 0
    while at < len(order):
        now = (survival.time_N[order[at]], survival.event_N[order[at]])
        end = at
        while end < len(order) and now == (
            survival.time_N[order[end]],
            survival.event_N[order[end]],
        ):
            end += 1
        rows = order[at:end]
        if now[1]:
            total = _below(tree, len(tree) - 2)
            for row in rows.tolist():
                place = int(place_N[row])
                below, upto = _below(tree, place - 1), _below(tree, place)
                good += weight_N[row] * (below + 0.5 * (upto - below))
                pairs += weight_N[row] * total
        for row in rows.tolist():
            _add(tree, int(place_N[row]), float(weight_N[row]))
        at = end
    return float(good / pairs) if pairs else float("nan")


def _add(tree: Floats, place: int, weight: float) -> None:
    at = place + 1
    while at < len(tree):
        tree[at] += weight
        at += at & -at


def _below(tree: Floats, place: int) -> float:
    """Return the weight at places up to this one."""
    at, total = place + 1, 0.0
    while at > 0:
        total += float(tree[at])
        at -= at & -at
    return total
