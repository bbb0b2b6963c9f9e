"""What the analyses found, as rows of ``report.json`` and as pictures.

Dimension key: N pairs, T target categories, C behaviour categories, P positions.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lfm4ads.analysis.collapse import Doubles
from lfm4ads.analysis.correlation import spearman, unit_range
from lfm4ads.analysis.dots import draw_dots
from lfm4ads.analysis.entanglement import (
    Conflict,
    active_pairs,
    entanglement_score,
    find_conflict,
    place_conflict,
)
from lfm4ads.analysis.maps import About, draw_matrix, draw_zones
from lfm4ads.analysis.svg import Picture, file_stem
from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Array, Ranks
from lfm4ads.data.index import Dataset
from lfm4ads.data.schema import Schema
from lfm4ads.shard.sharded import Sharded
from lfm4ads.train.counted import History, HistoryConfig, count_history
from lfm4ads.train.entangled import Pairs, PairsConfig
from lfm4ads.train.learned import learned_history

Json = dict[str, Any]
Drawn = tuple[Picture, bytes]
"""A picture and its PNG."""
_MOST_HISTORIES = 4
"""Target categories that are drawn; all are in the report."""


def finite(values: Any) -> Any:
    """Return nested numbers with None in the place of what is not finite."""
    if isinstance(values, np.ndarray):
        return finite(values.tolist())
    if isinstance(values, list):
        return [finite(one) for one in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def history_report(
    config: HistoryConfig,
    dataset: Dataset,
    days: Sequence[int],
    *,
    task: str,
    sharded: Sharded | None,
    ranks: Ranks,
) -> tuple[Json, list[Drawn]]:
    """Return the information of behaviours, and what the model learnt of them. Collective."""
    truth = count_history(config, dataset, days, task=task, ranks=ranks)
    report: Json = {
        "behaviours": config.behaviours,
        "target": config.target,
        "categories": finite(truth.categories),
        "rows": finite(truth.rows_TY),
        "bits": finite(truth.information_TCP),
    }
    maps = {"truth": truth.information_TCP}
    if sharded is not None:
        maps |= learned_history(config, sharded, dataset.schema, truth.categories)
    report["learned"] = [
        {
            "interest": name,
            "correlation": finite(found),
            "spearman": finite(spearman(truth.information_TCP, found)),
            "spearman_by_target": [
                finite(spearman(one, other))
                for one, other in zip(truth.information_TCP, found, strict=True)
            ],
        }
        for name, found in maps.items()
        if name != "truth"
    ]
    most = np.argsort(-truth.rows_TY.sum(1), kind="stable")[:_MOST_HISTORIES]
    drawn = [
        _draw_history(config, truth, found, at=at, name=name)
        for at in most.tolist()
        for name, found in maps.items()
    ]
    return report, drawn


def _draw_history(
    config: HistoryConfig, truth: History, found_TCP: Doubles, *, at: int, name: str
) -> Drawn:
    category = str(truth.categories[at])
    agreement = spearman(truth.information_TCP[at], found_TCP[at])
    caption = f"Spearman with the ground truth: {agreement:.2f}."
    if found_TCP is truth.information_TCP:
        caption = f"Ground truth, 1 is {found_TCP[at].max():.2g} bits."
    return draw_matrix(
        unit_range(found_TCP[at]),
        rows=[str(one) for one in truth.categories],
        columns=[str(place + 1) for place in range(config.positions)],
        about=About(
            name=file_stem("history", name, category),
            section="history",
            title=f"{config.target} {category}, {name}",
            caption=caption,
        ),
        axes_of=("behaviours ago", config.behaviours),
    )


def entanglement_report(
    config: PairsConfig,
    every: Mapping[str, Pairs],
    schema: Schema,
    *,
    lookups: Mapping[str, Mapping[str, Array]],
) -> tuple[Json, list[Drawn]]:
    """Return where tables put the pairs in conflict.

    Args:
        config: Which pairs count.
        every: Pairs in the model that is judged, named "", and in that of each single task.
        schema: Of the dataset.
        lookups: Schema table -> feature -> lookups of every row.
    """
    judged = every[""]
    active = _active(config, judged, schema, lookups=lookups)
    if not active.any():
        raise UserError(
            f"no pair has a user and an item above pairs.active_percentile"
            f" {config.active_percentile:g}; lower it",
            everywhere=True,
        )
    single = {
        task: next(iter(pairs.distance_N.values()))[active] for task, pairs in every.items() if task
    }
    conflict = find_conflict(single)
    tables = {f"only {task}": distance_N for task, distance_N in single.items()}
    tables |= {name: distance_N[active] for name, distance_N in judged.distance_N.items()}
    rows: list[Json] = []
    drawn: list[Drawn] = []
    correct: dict[str, dict[str, float]] = {}
    for name, distance_N in tables.items():
        found = place_conflict(distance_N, conflict)
        correct[name] = found.correct
        about = About(name=file_stem("zones", name), section="zones", title=f"Distances, {name}")
        drawn.append(draw_zones(found, about=about))
        rows.append(
            {
                "table": name,
                "correct_ratio": {task: finite(one) for task, one in found.correct.items()},
                "edges": finite(found.edges),
                "all_pairs": finite(found.all_pairs),
                "conflict_pairs": finite(found.conflict_pairs),
                "low": found.low,
                "high": found.high,
            }
        )
    report: Json = {"pairs": int(active.sum()), "conflict_pairs": int(conflict.pairs.sum())}
    report["tasks"] = [conflict.first, conflict.second]
    scores = _scores(correct, conflict)
    drawn = [_draw_correct(correct, scores), *drawn]
    return {**report, "tables": rows, "scores": scores}, drawn


def _draw_correct(
    correct: Mapping[str, Mapping[str, float]], scores: Mapping[str, float | None]
) -> Drawn:
    rows = {
        name: {**{task: finite(one) for task, one in each.items()}, "score": scores[name]}
        for name, each in correct.items()
    }
    together = {name: {"score": score} for name, score in scores.items() if name not in rows}
    return draw_dots(
        {**rows, **together},
        about=About(
            name="entanglement",
            section="entanglement",
            title="Pairs in conflict",
            caption="The score is 1 minus the mean share over both tasks: 0 is no entanglement.",
        ),
        unit="share in the zone a task needs; score",
    )


def draw_health(health: Json) -> list[Drawn]:
    """Return pictures of what is stored and of what probes read."""
    drawn: list[Drawn] = []
    rows = {
        f"{one['side']}.{one['name']}": {
            "share of keys": one["coverage_ratio"],
            "CKA with the snapshot before": one["drift"].get("before", {}).get("cka"),
        }
        for one in health["representations"]
    }
    if rows:
        drawn.append(
            draw_dots(
                rows,
                about=About(
                    name="health", section="health", title=f"Snapshot of {health['as_of']}"
                ),
                unit="1: all keys have it; nothing moved",
            )
        )
    if health.get("probes"):
        drawn.append(
            draw_dots(
                {
                    one["name"]: {"AUC": one["auc"], "share of rows": one["coverage_ratio"]}
                    for one in health["probes"]
                },
                about=About(
                    name="probes",
                    section="health",
                    title=f"Probes judged on {health['probe_days'][1]}",
                ),
                unit="AUC; share of rows",
                zero=False,
            )
        )
    return drawn


def _active(
    config: PairsConfig,
    pairs: Pairs,
    schema: Schema,
    *,
    lookups: Mapping[str, Mapping[str, Array]],
) -> Array:
    users, items = (
        lookups[schema.features[name].table][name] for name in (config.user, config.item)
    )
    return active_pairs(
        users[pairs.user_row_N],
        items[pairs.item_row_N],
        user_counts=users[users > 0],
        item_counts=items[items > 0],
        percentile=config.active_percentile,
    )


def _scores(correct: Mapping[str, Mapping[str, float]], conflict: Conflict) -> Json:
    """Return the scores of single tables, and of tables or mixtures that each task has alone."""
    tasks = (conflict.first, conflict.second)
    scores = {name: entanglement_score(one) for name, one in correct.items()}
    for words, prefix in (("own tables", ""), ("own mixtures", "mixture "), ("alone", "only ")):
        if all(f"{prefix}{task}" in correct for task in tasks):
            own = {task: correct[f"{prefix}{task}"][task] for task in tasks}
            scores[words] = entanglement_score(own)
    return {name: finite(score) for name, score in scores.items()}
