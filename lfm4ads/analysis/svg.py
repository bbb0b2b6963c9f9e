"""Matplotlib figures as SVG: deterministic files, and inline pieces in the page's theme."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1b1d21", "#5c606a", "#dcdee3", "#fdfdfe"
PALETTE = ("#005a94", "#b03a00", "#008f68", "#c778a6", "#c98500", "#3f9bd1")
"""Okabe and Ito's colours, told apart by the colour-blind, darkened until each is 3:1 on paper."""
MARKERS = ("o", "s", "^", "D", "v", "P")
"""Shape repeats what colour says, for print in grey."""
LIGHT = {"--ink": INK, "--muted": MUTED, "--grid": GRID, "--paper": PAPER, "--ground": "#f3f4f6"}
LIGHT |= {"--accent": "#0067a8"} | {f"--series-{at}": colour for at, colour in enumerate(PALETTE)}
"""CSS variables of the pages."""
DARK = {"--ink": "#e7e9ee", "--muted": "#a2a7b3", "--grid": "#363a43", "--paper": "#1b1e24"}
DARK |= {"--ground": "#121418", "--accent": "#6db6ea"}
DARK |= {
    f"--series-{at}": colour
    for at, colour in enumerate(("#4b93e4", "#dd6420", "#22b98e", "#cf7fb2", "#f5c454", "#b0dcf5"))
}
"""The same on a dark screen."""

PNG_DOTS_PER_INCH = 160

_VARIABLES = {
    colour: name for name, colour in LIGHT.items() if name not in ("--ground", "--accent")
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": PAPER,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one arm is drawn, the same in every picture."""

    colour: str
    marker: str


def arm_styles(arms: Sequence[str], *, baseline: str) -> dict[str, Style]:
    """Give the baseline grey, the oracle ink, and every other arm its own colour and shape."""
    styles = {baseline: Style(colour=MUTED, marker="o"), "oracle": Style(colour=INK, marker="*")}
    others = [arm for arm in arms if arm not in styles]
    for index, arm in enumerate(others):
        # Shapes move on by one with each round of colours, so 36 arms differ.
        marker = MARKERS[(index + index // len(PALETTE)) % len(MARKERS)]
        styles[arm] = Style(colour=PALETTE[index % len(PALETTE)], marker=marker)
    return styles


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One finished figure."""

    name: str
    """File stem under ``figures/``."""
    section: str
    """Part of the page: ``lifts``, ``curves``, ``auc``, ``reliability``, ``training``,
    ``pretrain``, ``speed``."""
    caption: str
    """What its title does not say; may be empty."""
    alt: str
    """What a reader who cannot see it needs to know."""
    svg: str
    """A whole SVG document on paper-coloured ground."""
    png: bytes = b""
    """The same as a PNG; empty where whoever draws it keeps that beside it."""


def file_stem(*parts: str) -> str:
    """Return a name safe for a file and an SVG id, whatever the log called its figures."""
    return "-".join(re.sub(r"[^A-Za-z0-9_.]+", "-", part).strip("-") for part in parts if part)


@contextmanager
def canvas(*, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure narrow enough to be read on a phone without zooming; ``height`` in inches."""
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(4.4, height), layout="constrained")
        yield figure, figure.add_subplot()


def to_svg(figure: Figure, *, name: str) -> str:
    """Return the figure as an SVG document that is the same bytes on every run.

    Every id starts with ``name``, because many figures share one page.
    """
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    return re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", svg)


def legend_below(figure: Figure) -> None:
    """Name the lines below the axes, in as many columns as fit; the picture grows by its rows."""
    named = {label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]}
    columns = int(min(4, max(1, 310 // (30 + 5.4 * max(map(len, named))))))
    rows = -(-len(named) // columns)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.2 * (rows - 1))
    figure.legend(loc="outside lower center", ncols=columns)


def finish(figure: Figure, *, name: str, section: str, alt: str, caption: str = "") -> Picture:
    """Return the figure as a picture: an SVG and a PNG, the same bytes on every run."""
    svg, png = to_svg(figure, name=name), io.BytesIO()
    with mpl.rc_context(_SETTINGS):
        figure.savefig(png, format="png", dpi=PNG_DOTS_PER_INCH, metadata={"Software": None})
    return Picture(
        name=name, section=section, caption=caption, alt=alt, svg=svg, png=png.getvalue()
    )


def inline(picture: Picture) -> str:
    """Return the ``<svg>`` element alone, its colours as CSS variables of the theme.

    HTML needs none of the addresses that name an SVG file's formats, so the page holds none.
    """
    svg = picture.svg[picture.svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", svg, count=1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(picture.alt)}" ', 1)
