"""Spectra of a sharded model's tables: per set, of all sets side by side, and by traffic.

Dimension key: D rows of a table, K width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from lfm4ads.analysis.collapse import Doubles, GramSums, spectrum
from lfm4ads.core.log import MetricsLog
from lfm4ads.core.ranks import Array
from lfm4ads.shard.sharded import Sharded
from lfm4ads.shard.whole_rows import CHUNK_ROWS, whole_rows

BESIDE = "all sets"
"""Name of the table (D, sum of widths) that several sets make side by side."""


@dataclass(frozen=True, kw_only=True)
class TableGrams:
    """The Gram matrices of one table in one set."""

    table: str
    """As the schema calls it."""
    table_set: str
    rows: int
    dim: int
    grams: dict[str, Doubles] = field(repr=False)
    """raw, normalised and, for each weight, ``by <weight>``."""


def by_schema_table(sharded: Sharded) -> dict[str, dict[str, str]]:
    """Return schema table -> set -> the model's table; the set without name is ``main``."""
    found: dict[str, dict[str, str]] = {}
    for name in sorted(sharded.tables):
        table_set, _, table = name.rpartition("/")
        found.setdefault(table, {})[table_set or "main"] = name
    return found


def measure_tables(
    sharded: Sharded,
    *,
    traffic: Mapping[str, Mapping[str, Array]] | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> list[TableGrams]:
    """Return the Gram matrices of every table, from one pass over its rows. Collective.

    The same on any placement and number of ranks but for the order of float64 sums.

    Args:
        sharded: The model.
        traffic: Schema table -> name of a weight -> weight (D,) of every row.
        chunk_rows: Rows held in float64 at a time.
    """
    measured: list[TableGrams] = []
    for table, sets in by_schema_table(sharded).items():
        weights = (traffic or {}).get(table, {})
        measured += _measure(sharded, table, sets=sets, weights=weights, chunk_rows=chunk_rows)
    return measured


def _measure(
    sharded: Sharded,
    table: str,
    *,
    sets: Mapping[str, str],
    weights: Mapping[str, Array],
    chunk_rows: int,
) -> list[TableGrams]:
    shapes = {name: sharded.tables[own] for name, own in sets.items()}
    rows = next(iter(shapes.values()))[0]
    dims = {name: dim for name, (_, dim) in shapes.items()}
    if len(dims) > 1:
        dims[BESIDE] = sum(dims.values())
    sums = {name: GramSums(dim, weights=list(weights)) for name, dim in dims.items()}
    for block in whole_rows(sharded, list(sets.values()), chunk_rows=chunk_rows):
        cells = {name: block.rows[own] for name, own in sets.items()}
        if len(sets) > 1:
            cells[BESIDE] = torch.cat([one.float() for one in cells.values()], dim=1)
        stop = block.first_row + len(next(iter(cells.values())))
        own = {
            name: torch.from_numpy(all_D[block.first_row : stop]) for name, all_D in weights.items()
        }
        for name, rows_CK in cells.items():
            sums[name].add(rows_CK, weights=own)
    return [
        TableGrams(
            table=table,
            table_set=name,
            rows=rows,
            dim=dims[name],
            grams=one.merged(sharded.ranks.sum),
        )
        for name, one in sums.items()
    ]


def log_spectra(sharded: Sharded, metrics: MetricsLog, *, step: int, split: str) -> None:
    """Write the information abundance of every table, of each set and of all. Collective."""
    for one in measure_tables(sharded):
        for kind in ("raw", "normalised"):
            name = f"abundance/{one.table_set}/{one.table}/{kind}"
            found = spectrum(one.grams[kind]).abundance
            metrics.write(name, found, step=step, split=split, unit="directions")
