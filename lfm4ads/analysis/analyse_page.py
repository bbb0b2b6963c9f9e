"""What ``analyse`` found, as one HTML page that opens offline."""

from collections.abc import Mapping, Sequence
from typing import Any

from lfm4ads.analysis.page import page_environment
from lfm4ads.analysis.svg import Picture
from lfm4ads.analysis.words import count, number

Json = dict[str, Any]


def render_analysis(
    report: Mapping[str, Any], *, pictures: Sequence[Picture], command: str, config: str
) -> str:
    """Return the page.

    Args:
        report: Content of ``report.json``.
        pictures: Each in a section of the page.
        command: The words that make this page again.
        config: The stage's config as YAML.
    """
    sections: dict[str, list[Picture]] = {}
    for picture in pictures:
        sections.setdefault(picture.section, []).append(picture)
    return (
        page_environment()
        .get_template("analyse.html.j2")
        .render(
            report=report,
            pictures=sections,
            command=command,
            config=config,
            headlines=_headlines(report),
            table_rows=_table_rows(report),
            pair_rows=_pair_rows(report),
            drift_words=[*_drift_words(report)],
        )
    )


def _headlines(report: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    if "collapse" in report:
        found.append(_collapse_words(report["collapse"]["tables"]))
    found += [
        f"The strength with which {one['expert']} joins two fields goes with what they tell of the"
        f" label by a Spearman of {number(one['spearman'], digits=2)}, over"
        f" {count(one['pairs'], noun='pair')}."
        for one in report["fields"]["learned"]
    ]
    if "history" in report:
        found += [
            f"What {one['interest']} learnt of {report['history']['behaviours']} agrees with the"
            f" ground truth by a Spearman of {number(one['spearman'], digits=2)}."
            for one in report["history"]["learned"]
        ]
    if "entanglement" in report:
        found.append(_entanglement_words(report["entanglement"]))
    if "health" in report:
        found.append(_health_words(report["health"]))
    return found


def _collapse_words(tables: Sequence[Json]) -> str:
    known = [row for row in tables if row["raw"]["abundance"] is not None]
    low = [row for row in known if _share(row) < 0.5]
    words = (
        f"{len(low)} of {count(len(known), noun='table')} use less than half of the directions that"
        " a random table of their shape uses"
    )
    if not known:
        return f"{words}."
    worst = min(known, key=_share)
    return (
        f"{words}; the least is {worst['table']} in {worst['set']} with"
        f" {worst['raw']['abundance']:.1f} of {worst['dim']}, random"
        f" {worst['random']['abundance']:.1f}."
    )


def _share(row: Json) -> float:
    return row["raw"]["abundance"] / row["random"]["abundance"]


def _entanglement_words(found: Json) -> str:
    scores = ", ".join(
        f"{name} {number(score, digits=3)}"
        for name, score in found["scores"].items()
        if not name.startswith(("only ", "mixture ")) and name != "alone"
    )
    first, second = found["tasks"]
    return (
        f"{found['conflict_pairs']:,} of {count(found['pairs'], noun='pair')} are in conflict"
        f" between {first} and {second}; entanglement, 0 is none: {scores}."
    )


def _health_words(health: Json) -> str:
    rows = health["representations"]
    words = f"The snapshot of {health['as_of']} has {count(len(rows), noun='representation')}"
    thin = [row for row in rows if row["coverage_ratio"] is not None]
    if thin:
        least = min(thin, key=lambda row: row["coverage_ratio"])
        words += f", the thinnest {least['name']} for {least['coverage_ratio']:.0%} of keys"
    probes = [row for row in health.get("probes", ()) if row["auc"] is not None]
    if probes:
        best = max(probes, key=lambda row: row["auc"])
        words += f"; the best probe reads {best['name']}, AUC {best['auc']:.3f}"
    return f"{words}."


def _table_rows(report: Mapping[str, Any]) -> list[Json]:
    """Return a row for each table and way of weighting its rows."""
    return [
        {
            "set": row["set"],
            "table": row["table"],
            "rows": row["rows"],
            "dim": row["dim"],
            "kind": kind,
            "abundance": row[kind]["abundance"],
            "random": row["random"]["abundance"],
            "last": _last(row[kind]["values"]),
        }
        for row in report.get("collapse", {"tables": ()})["tables"]
        for kind in row
        if kind in ("raw", "normalised") or kind.startswith("by ")
    ]


def _last(values: Sequence[float]) -> float | None:
    """Return the smallest singular value over the largest."""
    return values[-1] / values[0] if values[0] else None


def _pair_rows(report: Mapping[str, Any]) -> list[Json]:
    return sorted(report["fields"]["pairs"], key=lambda row: -row["bits"])


def _drift_words(report: Mapping[str, Any]) -> list[str]:
    """Return the snapshots that the health compares with: keys of every row's ``drift``."""
    rows = report.get("health", {"representations": ()})["representations"]
    return list(dict.fromkeys(words for row in rows for words in row["drift"]))
