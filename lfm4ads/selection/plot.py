"""The coefficient path and the criterion over sizes, as one figure."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lfm4ads.selection.select import PathRow, Selection


def plot_path(selection: Selection, *, figure: Any = None) -> Any:
    """Draw coefficients above, the criterion below, a dashed line at the chosen size."""
    figure = Figure(figsize=(7, 6), layout="constrained") if figure is None else figure
    top, bottom = figure.subplots(2, 1, sharex=True)
    sizes = [row.size for row in selection.rows]
    columns = sorted({int(j) for row in selection.rows for j in row.coefficients.columns_K})
    for column in columns:
        top.plot(sizes, [_coefficient(row, column) for row in selection.rows], lw=1)
    top.set_ylabel("coefficient")
    names = ["cv"] if selection.criterion == "cv" else ["aic", "bic", "gic", "ebic"]
    for name in names:
        bottom.plot(sizes, [_criterion(row, name) for row in selection.rows], label=name.upper())
    bottom.set_ylabel("held-out loss" if names == ["cv"] else "criterion")
    bottom.set_xlabel("chosen columns or groups")
    bottom.legend()
    for axes in (top, bottom):
        axes.axvline(selection.chosen.size, ls="--", color="grey")
    return figure


def _coefficient(row: PathRow, column: int) -> float:
    at = np.flatnonzero(row.coefficients.columns_K == column)
    return float(row.coefficients.values_K[at[0]]) if len(at) else 0.0


def _criterion(row: PathRow, name: str) -> float:
    if name == "cv":
        return row.held_out.mean if row.held_out is not None else float("nan")
    return float(getattr(row.criteria, name))
