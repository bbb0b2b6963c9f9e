"""Spectra of tables, now and over training, and pairs of fields: for ``report.json``, as pictures.

Dimension key: N fields.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from lfm4ads.analysis.collapse import Doubles, Projected, Spectrum, random_spectrum, spectrum
from lfm4ads.analysis.correlation import spearman
from lfm4ads.analysis.curves import load_curves
from lfm4ads.analysis.dots import Line, draw_days, draw_dots
from lfm4ads.analysis.maps import About, draw_matrix, draw_spectra
from lfm4ads.analysis.svg import file_stem
from lfm4ads.core.ranks import Array
from lfm4ads.data.schema import Schema
from lfm4ads.model.lfm import Lfm
from lfm4ads.train.analysed import Drawn, Json, finite
from lfm4ads.train.crossed import FieldView, field_views
from lfm4ads.train.spectra import TableGrams

_IN_ONE = 6
"""Lines of a picture, each of a colour of its own."""
_DOTTED = 16
"""Tables of a picture of marks."""


def collapse_report(
    grams: Sequence[TableGrams],
    model: Lfm,
    schema: Schema,
    *,
    lookups: Mapping[str, Mapping[str, Array]],
    seed: int,
) -> tuple[Json, list[FieldView], list[Drawn]]:
    """Return the spectra of every table, and of its sub-embeddings where fields are crossed."""
    rows = [_table_row(one, seed=seed) for one in grams]
    views = field_views(model, schema, grams, lookups=lookups)
    drawn: list[Drawn] = []
    for table_set in dict.fromkeys(one["set"] for one in rows):
        own = sorted((one for one in rows if one["set"] == table_set), key=lambda one: -one["rows"])
        drawn += _draw_abundance(own, table_set)
        drawn += _draw_spectra(own, table_set)
    projections: list[Json] = []
    for view in views:
        order = np.argsort(np.where(np.isnan(view.own_N), np.inf, view.own_N), kind="stable")
        names = [view.names[at] for at in order]
        abundance_NN = view.seen.abundance_NN[np.ix_(order, order)]
        drawn.append(
            draw_matrix(
                abundance_NN,
                rows=names,
                columns=names,
                about=About(
                    name=file_stem("projected", view.expert),
                    section="projected",
                    title=f"Abundance towards others, {view.expert}",
                    caption="Fields stand by the abundance of their own tables; those without a"
                    " table are last and blank.",
                ),
                axes_of=("towards", "field"),
            )
        )
        projections.append(
            {
                "expert": view.expert,
                "set": view.table_set,
                "fields": names,
                "own": finite(view.own_N[order]),
                "abundance": finite(abundance_NN),
                "strength": finite(view.seen.strength_NN[np.ix_(order, order)]),
                "mean_of_field": [_mean(one) for one in abundance_NN],
                "mean_towards": [_mean(one) for one in abundance_NN.T],
            }
        )
    return {"tables": rows, "projected": projections}, views, drawn


def _mean(values_N: Doubles) -> float | None:
    defined = values_N[np.isfinite(values_N)]
    return float(defined.mean()) if len(defined) else None


def _table_row(one: TableGrams, *, seed: int) -> Json:
    row: Json = {"table": one.table, "set": one.table_set, "rows": one.rows, "dim": one.dim}
    for name, gram in one.grams.items():
        row[name] = _spectrum_row(spectrum(gram))
    row["random"] = _spectrum_row(random_spectrum(one.rows, one.dim, seed=seed))
    return row


def _spectrum_row(found: Spectrum) -> Json:
    return {"abundance": finite(found.abundance), "values": finite(found.values_K)}


def _parts(rows: Sequence[Json], *, size: int, words: str) -> Iterator[tuple[str, Sequence[Json]]]:
    """Yield the rows in parts, with the words for a title of each."""
    for start in range(0, len(rows), size):
        some = f", tables {start + 1} to {min(start + size, len(rows))} of {len(rows)}"
        yield words + (some if len(rows) > size else ""), rows[start : start + size]


def _draw_spectra(rows: Sequence[Json], table_set: str) -> Iterator[Drawn]:
    for title, some in _parts(rows, size=_IN_ONE, words=f"Spectra, {table_set}"):
        yield draw_spectra(
            {one["table"]: one["raw"]["values"] for one in some},
            random={one["table"]: one["random"]["values"] for one in some},
            about=About(
                name=file_stem(title.lower()),
                section="spectra",
                title=title,
                caption="Dashed: a table of the same shape with independent cells.",
            ),
        )


def _draw_abundance(rows: Sequence[Json], table_set: str) -> Iterator[Drawn]:
    for title, some in _parts(rows, size=_DOTTED, words=f"Information abundance, {table_set}"):
        yield draw_dots(
            {one["table"]: _abundances(one) for one in some},
            about=About(
                name=file_stem(title.lower()),
                section="abundance",
                title=title,
                caption="Grey: the width of the table. By lookups: the mean over the features that"
                " read it. Random: a table of the same shape with independent cells.",
            ),
            unit="directions",
            whole={one["table"]: one["dim"] for one in some},
        )


def _abundances(row: Json) -> dict[str, float | None]:
    by_lookups = [
        row[name]["abundance"]
        for name in row
        if name.startswith("by ") and row[name]["abundance"] is not None
    ]
    return {
        "raw": row["raw"]["abundance"],
        "normalised": row["normalised"]["abundance"],
        "by lookups": float(np.mean(by_lookups)) if by_lookups else None,
        "random": row["random"]["abundance"],
    }


def training_report(folder: Path) -> tuple[list[Json], list[Drawn]]:
    """Return the abundance of tables over the days of a pretrain run that logged it."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return [], []
    rows: list[Json] = []
    for curve in load_curves(path, run="", arm=""):
        if curve.name.startswith("abundance/") and curve.days:
            _, table_set, table, kind = curve.name.split("/")
            row = {"set": table_set, "table": table, "kind": kind, "steps": list(curve.x)}
            rows.append({**row, "days": list(curve.days), "abundance": list(curve.y)})
    drawn: list[Drawn] = []
    for table_set in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == table_set and row["kind"] == "raw"]
        for title, some in _parts(own, size=_IN_ONE, words=f"Abundance in training, {table_set}"):
            lines: dict[str, Line] = {row["table"]: (row["days"], row["abundance"]) for row in some}
            drawn.append(
                draw_days(
                    lines,
                    about=About(name=file_stem(title.lower()), section="training", title=title),
                    unit="directions",
                )
            )
    return rows, drawn


def fields_report(
    bits: Mapping[tuple[str, str], float], views: Sequence[FieldView]
) -> tuple[Json, list[Drawn]]:
    """Return the information of pairs of fields, beside how strongly experts join them."""
    names = list(dict.fromkeys(name for pair in bits for name in pair))
    pairs: list[Json] = [
        {"fields": list(pair), "bits": value, "strength": {}} for pair, value in bits.items()
    ]
    drawn = [
        _draw_pairs(
            {(one, other): value for (one, other), value in bits.items()},
            names,
            About(
                name="fields",
                section="fields",
                title="Two fields and the label, bits",
                caption="Mutual information of a pair of fields with the label, above chance.",
            ),
        )
    ]
    learned: list[Json] = []
    for view in views:
        strength = {pair: _strength(view.seen, view.names, pair) for pair in bits}
        for row in pairs:
            row["strength"][view.expert] = finite(strength[row["fields"][0], row["fields"][1]])
        both = [pair for pair in bits if np.isfinite(strength[pair])]
        agreement = spearman(
            np.array([bits[pair] for pair in both]), np.array([strength[pair] for pair in both])
        )
        learned.append({"expert": view.expert, "pairs": len(both), "spearman": finite(agreement)})
        drawn.append(
            _draw_pairs(
                strength,
                names,
                About(
                    name=file_stem("strength", view.expert),
                    section="fields",
                    title=f"Strength of pairs in {view.expert}",
                    caption=f"Spearman with the information: {agreement:.2f} over {len(both)}"
                    " pairs.",
                ),
            )
        )
    return {"pairs": pairs, "learned": learned}, drawn


def _draw_pairs(
    values: Mapping[tuple[str, str], float], names: Sequence[str], about: About
) -> Drawn:
    matrix_NN = np.full((len(names), len(names)), np.nan)
    for (one, other), value in values.items():
        at, to = names.index(one), names.index(other)
        matrix_NN[at, to] = matrix_NN[to, at] = value
    return draw_matrix(
        matrix_NN,
        rows=names,
        columns=names,
        about=about,
    )


def _strength(seen: Projected, names: Sequence[str], pair: tuple[str, str]) -> float:
    """Return the strength from one field to the other and back; NaN where they do not meet."""
    if not set(pair) <= set(names):
        return float("nan")
    at, to = (names.index(name) for name in pair)
    return float(seen.strength_NN[at, to] + seen.strength_NN[to, at])
