"""Pictures of a few figures beside one another, and of figures over days, as SVG and as PNG."""

from collections.abc import Mapping, Sequence

from matplotlib.ticker import MaxNLocator

from lfm4ads.analysis.maps import About, both_files, picture_of
from lfm4ads.analysis.svg import GRID, MARKERS, PALETTE, Picture, canvas

Line = tuple[Sequence[str], Sequence[float]]
"""Days, and a figure of each."""


def draw_dots(
    rows: Mapping[str, Mapping[str, float | None]],
    *,
    about: About,
    unit: str,
    whole: Mapping[str, float] | None = None,
    zero: bool = True,
) -> tuple[Picture, bytes]:
    """Show a line of marks for each row, one a series; colour and shape say the same.

    Args:
        rows: Row -> series -> figure; None where it is not defined.
        about: What stands around the picture.
        unit: Words below the axis.
        whole: Row -> the most a figure can be, drawn as a grey bar behind its marks.
        zero: Whether the axis starts at 0.
    """
    series = list(dict.fromkeys(one for figures in rows.values() for one in figures))
    with canvas(height=1.3 + 0.24 * len(rows)) as (figure, axes):
        for at, row in enumerate(rows):
            if whole is not None:
                axes.barh(at, whole[row], height=0.62, color=GRID, linewidth=0)
        for at, one in enumerate(series):
            places = [place for place, row in enumerate(rows) if rows[row].get(one) is not None]
            values = [value for row in rows if (value := rows[row].get(one)) is not None]
            axes.plot(
                values,
                places,
                linestyle="",
                marker=MARKERS[at % len(MARKERS)],
                color=PALETTE[at % len(PALETTE)],
                markersize=5,
                label=one,
            )
        axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        if zero:
            axes.set_xlim(left=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(unit)
        axes.set_title(about.title)
        if len(series) > 1:
            figure.legend(loc="outside lower center", ncols=min(len(series), 4), columnspacing=1)
        svg, png = both_files(figure, name=about.name)
    facts = "; ".join(
        f"{row}: " + ", ".join(f"{one} {_words(value)}" for one, value in figures.items())
        for row, figures in rows.items()
    )
    return picture_of(about, alt=f"{about.title}, {unit}: {facts}.", svg=svg), png


def draw_days(
    lines: Mapping[str, Line],
    *,
    about: About,
    unit: str,
) -> tuple[Picture, bytes]:
    """Show figures over days, a line each."""
    days = sorted({day for line in lines.values() for day in line[0]})
    with canvas(height=3.0) as (figure, axes):
        for at, (words, (own, values)) in enumerate(lines.items()):
            axes.plot(
                [days.index(day) for day in own],
                values,
                label=words,
                color=PALETTE[at % len(PALETTE)],
                marker=MARKERS[at % len(MARKERS)],
                markersize=3.5,
                linewidth=1.2,
            )
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.xaxis.set_major_formatter(
            lambda place, _: days[int(place)] if 0 <= place < len(days) else ""
        )
        axes.set_ylim(bottom=0)
        axes.set_ylabel(unit)
        axes.set_title(about.title)
        figure.legend(loc="outside lower center", ncols=3)
        svg, png = both_files(figure, name=about.name)
    facts = "; ".join(
        f"{words} from {values[0]:.3g} to {values[-1]:.3g}" for words, (_, values) in lines.items()
    )
    alt = f"{about.title}, {unit}, {days[0]} to {days[-1]}: {facts}."
    return picture_of(about, alt=alt, svg=svg), png


def _words(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3g}"
