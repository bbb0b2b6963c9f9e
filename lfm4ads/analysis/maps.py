"""Pictures of matrices, spectra and histograms, each as SVG and as PNG.

Dimension key: R rows, C columns, K singular values, B bins.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from lfm4ads.analysis.entanglement import Entanglement
from lfm4ads.analysis.svg import INK, MARKERS, MUTED, PALETTE, Picture, canvas, to_svg

PNG_DOTS_PER_INCH = 160
_MOST_NAMED = 24
"""More rows or columns than that are not named one by one."""
_COLOURS = "cividis"
"""Told apart by the colour-blind, and light to dark in grey print."""


def draw_matrix(
    values_RC: npt.NDArray[Any],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    name: str,
    title: str,
    axes_of: tuple[str, str] = ("", ""),
) -> tuple[Picture, bytes]:
    """Show a matrix as a heat map; undefined cells stay blank.

    ``axes_of`` are the words below the columns and beside the rows.
    """
    with canvas(height=1.6 + 0.17 * min(len(rows), 30)) as (figure, axes):
        shown = axes.imshow(values_RC, aspect="auto", cmap=_COLOURS, interpolation="nearest")
        axes.grid(visible=False)
        if len(columns) <= _MOST_NAMED:
            steep = 90 if max(map(len, columns), default=0) > 3 else 0
            axes.set_xticks(range(len(columns)), columns, rotation=steep, fontsize=7)
        if len(rows) <= _MOST_NAMED:
            axes.set_yticks(range(len(rows)), rows, fontsize=7)
        axes.set_xlabel(axes_of[0])
        axes.set_ylabel(axes_of[1])
        axes.set_title(title)
        figure.colorbar(shown, ax=axes)
        svg, png = _both(figure, name=name)
    finite = np.isfinite(values_RC)
    alt = f"{title}: {len(rows)} by {len(columns)} cells, none of them defined."
    if finite.any():
        best = int(np.where(finite, values_RC, -np.inf).argmax())
        row, column = divmod(best, values_RC.shape[1])
        alt = (
            f"{title}: {len(rows)} by {len(columns)} cells from {values_RC[finite].min():.3g} to"
            f" {values_RC[finite].max():.3g}; the largest is {rows[row]}, {columns[column]}."
        )
    return Picture(name=name, section="analysis", caption="", alt=alt, svg=svg), png


def draw_spectra(
    spectra: Mapping[str, Sequence[float]],
    *,
    random: Mapping[str, Sequence[float]],
    name: str,
    title: str,
) -> tuple[Picture, bytes]:
    """Show singular values over the largest, a line a table; a random one of its shape dashed."""
    with canvas(height=3.4) as (figure, axes):
        for at, (table, values) in enumerate(spectra.items()):
            colour = PALETTE[at % len(PALETTE)]
            # Shapes move on by one with each round of colours.
            marker = MARKERS[(at + at // len(PALETTE)) % len(MARKERS)]
            place = np.arange(1, len(values) + 1)
            style = {"color": colour, "marker": marker, "markersize": 3, "linewidth": 1.2}
            axes.plot(place, _relative(values), label=table, **style)
            if table in random:
                drawn = _relative(random[table])
                axes.plot(place, drawn, color=colour, linewidth=0.9, linestyle="--")
        axes.set_ylim(0, 1.03)
        axes.set_xlabel("singular value")
        axes.set_ylabel("over the largest")
        axes.set_title(title)
        figure.legend(loc="outside lower center", ncols=3)
        svg, png = _both(figure, name=name)
    facts = "; ".join(
        f"{table} falls to {_relative(values)[-1]:.3g}" for table, values in spectra.items()
    )
    caption = "Dashed: a table of the same shape with independent cells."
    return Picture(
        name=name, section="analysis", caption=caption, alt=f"{title}: {facts}.", svg=svg
    ), png


def draw_zones(found: Entanglement, *, name: str, title: str) -> tuple[Picture, bytes]:
    """Show the distances of all pairs and, filled, of those in conflict; lines part the zones."""
    with canvas(height=2.8) as (figure, axes):
        axes.stairs(found.all_pairs, found.edges, color=MUTED, label="all pairs")
        axes.stairs(
            found.conflict_pairs, found.edges, color=PALETTE[1], fill=True, label="in conflict"
        )
        for edge in (found.low, found.high):
            axes.axvline(edge, color=INK, linewidth=0.9, linestyle="--")
        axes.set_xlabel("distance of user and item")
        axes.set_ylabel("pairs")
        axes.set_title(title)
        figure.legend(loc="outside lower center", ncols=2)
        svg, png = _both(figure, name=name)
    words = ", ".join(f"{share:.1%} for {task}" for task, share in found.correct.items())
    alt = f"{title}: pairs in conflict in the zone they need: {words}."
    caption = "Between the dashed lines are the middle 20 % of all pairs."
    return Picture(name=name, section="analysis", caption=caption, alt=alt, svg=svg), png


def _relative(values: Sequence[float]) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array / array.max() if array.max() > 0 else array


def _both(figure: Figure, *, name: str) -> tuple[str, bytes]:
    svg = to_svg(figure, name=name)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=PNG_DOTS_PER_INCH)
    return svg, png.getvalue()
