"""The report as one HTML page that opens offline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lfm4ads.analysis.page import page_environment
from lfm4ads.analysis.sources import Source
from lfm4ads.analysis.svg import Picture
from lfm4ads.analysis.words import POOLED_WARNING, count, headline, plain

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What the page shows besides the figures of ``report.json``."""

    pictures: Sequence[Picture]
    sources: Sequence[Source]
    command: str
    """The words that make this report again."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """A sentence below the pictures of a section."""
    has_pretrain: bool = False


def render(report: Mapping[str, Any], *, extras: Extras) -> str:
    """Return the page; every figure on it is in ``report`` (the content of ``report.json``)."""
    page = page_environment().get_template("report.html.j2")
    return page.render(
        report=report,
        pictures=extras.pictures,
        sources=extras.sources,
        command=extras.command,
        notes=extras.notes,
        pretrain=extras.has_pretrain,
        headlines=_headlines(report),
        strongest=_strongest(report),
        lift_rows=_lift_rows(report),
        scenario_rows=_scenario_rows(report),
        mean_notes=_mean_notes(report["lifts"]),
        seeds=", ".join(str(seed) for seed in sorted({run["seed"] for run in report["runs"]})),
        pooled_warning=POOLED_WARNING,
    )


def headline_lifts(lifts: Sequence[Row]) -> list[Row]:
    """Return a lift for each arm and task: the mean over scenarios if defined, else pooled."""
    best: dict[tuple[str, str], Row] = {}
    for lift in lifts:
        key = (lift["arm"], lift["task"])
        if lift["scenario"] == "all":
            best.setdefault(key, lift)
        elif lift["scenario"] == "mean" and lift["delta_auc"] is not None:
            best[key] = lift
    return list(best.values())


def _headlines(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Group the headline sentences by arm; an arm points up or down when all its intervals do."""
    by_arm: dict[str, list[Row]] = {}
    for lift in headline_lifts(report["lifts"]):
        by_arm.setdefault(lift["arm"], []).append(lift)
    groups = []
    for lifts in by_arm.values():
        up = all(lift["low"] is not None and lift["low"] > 0 for lift in lifts)
        down = all(lift["high"] is not None and lift["high"] < 0 for lift in lifts)
        direction = "up" if up else "down" if down else "unclear"
        groups.append({"direction": direction, "sentences": [headline(lift) for lift in lifts]})
    return groups


def _strongest(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the few arms that are surely above the baseline in every task, the largest first."""
    lifts = [row for row in headline_lifts(report["lifts"]) if row["arm"] != "oracle"]
    largest = sorted(lifts, key=lambda row: -(row["delta_auc"] or 0))
    groups = _headlines({"lifts": largest})
    return [group for group in groups if group["direction"] == "up"][:3]


def _lift_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    means = {_key(row): row for row in report["means"] if row["split"] == "test"}
    gaps = {_key(row): row for row in report["gap_closed"]}
    return [
        {
            **lift,
            "auc": means[_key(lift)]["auc"],
            "gap": gaps.get(_key(lift)),
            "no_gap": "this arm ends the gap",
        }
        for lift in report["lifts"]
        if lift["scenario"] in ("all", "mean")
    ]


def _scenario_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Put each mean over seeds before its seeds; only the means of test rows show at first."""
    seeds: dict[tuple[str, ...], list[Row]] = {}
    for row in report["arms"]:
        seeds.setdefault((*_key(row), row["split"]), []).append(row)
    lifts = {_key(lift): lift for lift in report["lifts"]}
    rows: list[dict[str, Any]] = []
    for mean in report["means"]:
        is_test = mean["split"] == "test"
        lift = lifts.get(_key(mean)) if is_test else None
        no_lift = (
            "this is the baseline"
            if mean["arm"] == report["baseline"]
            else "lifts are of test rows"
        )
        words = "truth" if mean["arm"] == "oracle" else f"mean of {mean['num_seeds']}"
        rows.append(
            {
                **mean,
                "kind": "mean" if is_test else "mean detail",
                "seed_order": -1,
                "seed_words": words,
                "lift": lift,
                "no_lift": no_lift,
            }
        )
        if mean["arm"] != "oracle":
            rows += [
                {
                    **row,
                    "kind": "detail",
                    "seed_order": row["seed"],
                    "seed_words": str(row["seed"]),
                    "lift": None,
                    "no_lift": "lifts are paired over seeds",
                }
                for row in seeds.get((*_key(mean), mean["split"]), [])
            ]
    return rows


def _key(row: Row) -> tuple[str, str, str]:
    return row["arm"], row["task"], row["scenario"]


def _mean_notes(lifts: Sequence[Row]) -> list[str]:
    """Say for each task which scenarios its mean is taken over."""
    notes = {
        lift[
            "task"
        ]: f"Mean for {plain(lift['task'])}: {count(len(lift['scenarios']), noun='scenario')} "
        f"({', '.join(lift['scenarios']) or 'none has enough positives'})."
        for lift in lifts
        if lift["scenario"] == "mean"
    }
    return list(notes.values())
