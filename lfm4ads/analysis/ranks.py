"""Pictures of ranks and their load, readable from one rank to thousands.

Dimension key: R ranks.
"""

import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lfm4ads.analysis.svg import INK, MUTED, PALETTE, Picture, canvas, to_svg
from lfm4ads.analysis.words import plain

Doubles = npt.NDArray[np.float64]
MOST_BARS = 256
"""More ranks share bars: each then shows the fullest of its ranks."""
PNG_DOTS_PER_INCH = 160


def draw_ranks(
    parts: Mapping[str, Doubles],
    *,
    name: str,
    title: str,
    unit: str,
    limit: float | None = None,
) -> tuple[Picture, bytes]:
    """Stack each rank's parts (R,); return the picture and its PNG.

    Args:
        parts: What each part is on every rank, in ``unit``.
        name: File stem.
        title: Above the picture.
        unit: Of every part and of ``limit``.
        limit: A dashed line that no rank should pass.
    """
    shown = {key: values for key, values in parts.items() if values.max() > 0}
    total_R = np.sum(list(shown.values()), axis=0)
    ranks = _fullest(total_R)
    with canvas(height=3.6) as (figure, axes):
        _stack(axes, {key: values[ranks] for key, values in shown.items()}, world=len(total_R))
        if limit is not None and limit < 2.5 * total_R.max():
            axes.set_ylim(0, 1.08 * max(limit, float(total_R.max())))
            axes.axhline(limit, color=INK, linewidth=0.9, linestyle="--", label="limit")
        axes.set_title(title)
        axes.set_xlabel("rank")
        axes.set_ylabel(unit)
        figure.legend(loc="outside lower center", ncols=3)
        svg = to_svg(figure, name=name)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=PNG_DOTS_PER_INCH)
    facts = ", ".join(f"{plain(key)} at most {values.max():.3g}" for key, values in shown.items())
    alt = (
        f"{title} of {len(total_R)} ranks in {unit}: {facts};"
        f" together {total_R.min():.3g} to {total_R.max():.3g}, mean {total_R.mean():.3g}."
    )
    size = -(-len(total_R) // MOST_BARS)
    caption = f"A bar is the fullest of {size} ranks side by side." if size > 1 else ""
    return Picture(name=name, section="ranks", caption=caption, alt=alt, svg=svg), png.getvalue()


def _fullest(total_R: Doubles) -> npt.NDArray[np.int64]:
    """Return the rank each bar shows."""
    size = -(-len(total_R) // MOST_BARS)
    starts = range(0, len(total_R), size)
    return np.array([start + int(total_R[start : start + size].argmax()) for start in starts])


def _stack(axes: Axes, parts: Mapping[str, Doubles], *, world: int) -> None:
    """Draw bars as steps without gaps: thousands of rectangles would be an unreadable file."""
    bars = len(next(iter(parts.values())))
    edges = np.linspace(0, world, bars + 1) - 0.5
    foot = np.zeros(bars)
    for index, (key, values) in enumerate(parts.items()):
        colour = (*PALETTE, MUTED, INK)[index % (len(PALETTE) + 2)]
        axes.stairs(foot + values, edges, baseline=foot, fill=True, color=colour, label=plain(key))
        foot = foot + values
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, float(foot.max()) * 1.08)
    axes.grid(visible=False, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
