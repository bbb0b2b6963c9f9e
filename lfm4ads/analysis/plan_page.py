"""A plan as one HTML page that opens offline."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lfm4ads.analysis.svg import Picture, inline
from lfm4ads.analysis.words import plain

_MOST_TABLES = 100
_MOST_RANKS_NAMED = 8


def render_plan(
    report: Mapping[str, Any],
    *,
    pictures: Sequence[Picture],
    tables: Sequence[Mapping[str, Any]],
    config: str,
) -> str:
    """Return the page.

    Args:
        report: Content of ``report.json``.
        pictures: Of ranks and load.
        tables: Content of ``placement.json``; the largest are shown.
        config: The plan's config as YAML.
    """
    environment = Environment(
        loader=PackageLoader("lfm4ads.analysis"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {
        "inline": inline,
        "plain": plain,
        "gib": lambda number: f"{number / 1024**3:,.2f} GiB",
        "ms": lambda seconds: f"{seconds * 1e3:,.2f} ms",
        "ranks": _ranks,
    }
    largest = sorted(tables, key=lambda table: -table["rows"] * table["dim"])[:_MOST_TABLES]
    memory = report["per_rank"]["memory_bytes"]
    parts = [(name, max(each), sum(each) / len(each)) for name, each in memory.items()]
    return environment.get_template("plan.html.j2").render(
        report=report, pictures=pictures, tables=largest, parts=parts, config=config
    )


def _ranks(ranks: Sequence[int]) -> str:
    if not ranks:
        return "all"
    shown = ", ".join(str(rank) for rank in ranks[:_MOST_RANKS_NAMED])
    return shown + (" ..." if len(ranks) > _MOST_RANKS_NAMED else "")
