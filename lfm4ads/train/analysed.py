"""What the analyses found, as rows of ``report.json`` and as pictures.

Dimension key: N pairs, T target categories, C behaviour categories, P positions.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lfm4ads.analysis.collapse import Spectrum, random_spectrum, spectrum
from lfm4ads.analysis.correlation import spearman, unit_range
from lfm4ads.analysis.entanglement import (
    Conflict,
    active_pairs,
    entanglement_score,
    find_conflict,
    place_conflict,
)
from lfm4ads.analysis.maps import draw_matrix, draw_spectra, draw_zones
from lfm4ads.analysis.svg import Picture, file_stem
from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Array, Ranks
from lfm4ads.data.index import Dataset
from lfm4ads.data.schema import Schema
from lfm4ads.model.lfm import Lfm
from lfm4ads.shard.sharded import Sharded
from lfm4ads.train.counted import HistoryConfig, count_history
from lfm4ads.train.entangled import Pairs, PairsConfig
from lfm4ads.train.learned import FieldView, field_views, learned_history
from lfm4ads.train.spectra import TableGrams

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


def collapse_report(
    grams: Sequence[TableGrams], model: Lfm, schema: Schema, *, seed: int
) -> tuple[Json, list[FieldView], list[Drawn]]:
    """Return the spectra of every table, and of its sub-embeddings where fields are crossed."""
    rows = [_table_row(one, seed=seed) for one in grams]
    views = field_views(model, schema, grams)
    drawn: list[Drawn] = []
    for table_set in dict.fromkeys(one["set"] for one in rows):
        own = [one for one in rows if one["set"] == table_set]
        drawn.append(
            draw_spectra(
                {one["table"]: one["raw"]["values"] for one in own},
                random={one["table"]: one["random"]["values"] for one in own},
                name=file_stem("spectra", table_set),
                title=f"Spectra of tables, {table_set}",
            )
        )
    for view in views:
        title = f"Abundance of fields as others see them, {view.expert}"
        drawn.append(
            draw_matrix(
                view.seen.abundance_NN,
                rows=view.names,
                columns=view.names,
                name=file_stem("projected", view.expert),
                title=title,
                axes_of=("towards", "field"),
            )
        )
    projections = [
        {
            "expert": view.expert,
            "fields": list(view.names),
            "abundance": finite(view.seen.abundance_NN),
            "strength": finite(view.seen.strength_NN),
        }
        for view in views
    ]
    return {"tables": rows, "projected": projections}, views, drawn


def _table_row(one: TableGrams, *, seed: int) -> Json:
    row: Json = {"table": one.table, "set": one.table_set, "rows": one.rows, "dim": one.dim}
    for name, gram in one.grams.items():
        row[name] = _spectrum_row(spectrum(gram))
    row["random"] = _spectrum_row(random_spectrum(one.rows, one.dim, seed=seed))
    return row


def _spectrum_row(found: Spectrum) -> Json:
    return {"abundance": finite(found.abundance), "values": finite(found.values_K)}


def fields_report(
    bits: Mapping[tuple[str, str], float], views: Sequence[FieldView]
) -> tuple[Json, list[Drawn]]:
    """Return the information of pairs of fields, beside how strongly cross layers join them."""
    names = list(dict.fromkeys(name for pair in bits for name in pair))
    matrix = np.full((len(names), len(names)), np.nan)
    for (one, other), value in bits.items():
        at, to = names.index(one), names.index(other)
        matrix[at, to] = matrix[to, at] = value
    learned: list[Json] = []
    for view in views:
        both = [pair for pair in bits if set(pair) <= set(view.names)]
        strength = [_strength(view, pair) for pair in both]
        agreement = spearman(np.array([bits[pair] for pair in both]), np.array(strength))
        learned.append({"expert": view.expert, "pairs": len(both), "spearman": finite(agreement)})
    pairs = [{"fields": list(pair), "bits": value} for pair, value in bits.items()]
    drawn = draw_matrix(
        matrix,
        rows=names,
        columns=names,
        name="fields",
        title="Information of two fields with the label, bits",
    )
    return {"pairs": pairs, "learned": learned}, [drawn]


def _strength(view: FieldView, pair: tuple[str, str]) -> float:
    """Return ||W_{k->l}|| + ||W_{l->k}||."""
    at, to = (view.names.index(name) for name in pair)
    return float(view.seen.strength_NN[at, to] + view.seen.strength_NN[to, at])


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
    drawn: list[Drawn] = []
    most = np.argsort(-truth.rows_TY.sum(1), kind="stable")[:_MOST_HISTORIES]
    for name, found in maps.items():
        for at in most.tolist():
            category = str(truth.categories[at])
            drawn.append(
                draw_matrix(
                    unit_range(found[at]),
                    rows=[str(one) for one in truth.categories],
                    columns=[str(place + 1) for place in range(config.positions)],
                    name=file_stem("history", name, category),
                    title=f"{config.target} {category}, {name}",
                    axes_of=("behaviours ago", config.behaviours),
                )
            )
    return report, drawn


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
        title = f"{name}: pairs of {conflict.first} against {conflict.second}"
        drawn.append(draw_zones(found, name=file_stem("zones", name), title=title))
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
    report = {"pairs": int(active.sum()), "conflict_pairs": int(conflict.pairs.sum())}
    return {**report, "tables": rows, "scores": _scores(correct, conflict)}, drawn


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
