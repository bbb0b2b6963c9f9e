"""Pictures of matrices, spectra and histograms, each as SVG and as PNG.

Dimension key: R rows, C columns, K singular values, B bins.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lfm4ads.analysis.entanglement import Entanglement
from lfm4ads.analysis.svg import GRID, INK, MARKERS, MUTED, PALETTE, Picture, canvas, to_svg

PNG_DOTS_PER_INCH = 160


@dataclass(frozen=True, kw_only=True)
class About:
    """What stands around a picture."""

    name: str
    """File stem under ``figures/``."""
    section: str
    """Part of the page."""
    title: str
    caption: str = ""
    """What the title does not say."""


FLOOR = 1e-8
"""Singular values below so much of the largest are lost in float64; spectra end there."""
_MOST_NAMED = 24
"""More rows or columns than that are not named one by one."""
_COLOURS = "cividis"
"""Told apart by the colour-blind, and light to dark in grey print."""


def draw_matrix(
    values_RC: npt.NDArray[Any],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    about: About,
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
        axes.set_title(about.title)
        figure.colorbar(shown, ax=axes).ax.tick_params(labelsize=7)
        svg, png = both_files(figure, name=about.name)
    finite = np.isfinite(values_RC)
    alt = f"{about.title}: {len(rows)} by {len(columns)} cells, none of them defined."
    if finite.any():
        best = int(np.where(finite, values_RC, -np.inf).argmax())
        row, column = divmod(best, values_RC.shape[1])
        alt = (
            f"{about.title}: {len(rows)} by {len(columns)} cells from"
            f" {values_RC[finite].min():.3g} to {values_RC[finite].max():.3g}; the largest is"
            f" {rows[row]}, {columns[column]}."
        )
    return picture_of(about, alt=alt, svg=svg), png


def draw_spectra(
    spectra: Mapping[str, Sequence[float]],
    *,
    random: Mapping[str, Sequence[float]],
    about: About,
) -> tuple[Picture, bytes]:
    """Show singular values over the largest, a line a table; a random one of its shape dashed.

    Those below ``FLOOR`` are not drawn: a table of few rows has no more directions than rows.
    """
    with canvas(height=3.6) as (figure, axes):
        for at, (table, values) in enumerate(spectra.items()):
            colour, marker = PALETTE[at % len(PALETTE)], MARKERS[at % len(MARKERS)]
            place = np.arange(1, len(values) + 1)
            style = {"color": colour, "marker": marker, "markersize": 3, "linewidth": 1.2}
            axes.plot(place, _above_floor(values), label=table, **style)
            axes.plot(
                place, _above_floor(random[table]), color=colour, linewidth=0.9, linestyle="--"
            )
        axes.set_yscale("log")
        axes.set_ylim(top=1.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("singular value")
        axes.set_ylabel("over the largest")
        axes.set_title(about.title)
        figure.legend(loc="outside lower center", ncols=3)
        svg, png = both_files(figure, name=about.name)
    facts = "; ".join(
        f"{table} falls to {_relative(values)[-1]:.2g} of the largest, a random one to"
        f" {_relative(random[table])[-1]:.2g}"
        for table, values in spectra.items()
    )
    return picture_of(about, alt=f"{about.title}: {facts}.", svg=svg), png


def draw_zones(found: Entanglement, *, about: About) -> tuple[Picture, bytes]:
    """Show the distances of all pairs and, filled, of those in conflict; lines part the zones."""
    with canvas(height=2.8) as (figure, axes):
        axes.axvspan(found.low, found.high, color=GRID, alpha=0.5, linewidth=0)
        axes.stairs(found.all_pairs, found.edges, color=MUTED, label="all pairs")
        axes.stairs(
            found.conflict_pairs, found.edges, color=PALETTE[1], fill=True, label="in conflict"
        )
        for edge in (found.low, found.high):
            axes.axvline(edge, color=INK, linewidth=0.9, linestyle="--")
        axes.set_xlabel("distance of user and item")
        axes.set_ylabel("pairs")
        axes.set_title(about.title)
        figure.legend(loc="outside lower center", ncols=2)
        svg, png = both_files(figure, name=about.name)
    words = ", ".join(f"{share:.1%} for {task}" for task, share in found.correct.items())
    alt = f"{about.title}: pairs in conflict in the zone they need: {words}."
    caption = f"In the zone they need: {words}. Between the lines: the middle 20 % of all pairs."
    return picture_of(replace(about, caption=caption), alt=alt, svg=svg), png


def _relative(values: Sequence[float]) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array / array.max() if array.max() > 0 else array


def _above_floor(values: Sequence[float]) -> npt.NDArray[np.float64]:
    relative = _relative(values)
    return np.where(relative > FLOOR, relative, np.nan)


def picture_of(about: About, *, alt: str, svg: str) -> Picture:
    """Return a finished picture."""
    return Picture(name=about.name, section=about.section, caption=about.caption, alt=alt, svg=svg)


def both_files(figure: Figure, *, name: str) -> tuple[str, bytes]:
    """Return a finished figure as SVG and as PNG."""
    svg = to_svg(figure, name=name)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=PNG_DOTS_PER_INCH)
    return svg, png.getvalue()
