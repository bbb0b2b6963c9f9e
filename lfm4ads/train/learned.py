"""What a trained model made of behaviours, to lay beside the ground truth.

Dimension key: T target categories, C behaviour categories, P positions, K width.
"""

import numpy as np
from torch import nn

from lfm4ads.analysis.collapse import Doubles
from lfm4ads.analysis.correlation import Ints, learned_correlation
from lfm4ads.data.hashing import hash_ids
from lfm4ads.data.schema import Schema
from lfm4ads.model.lfm import Lfm
from lfm4ads.nn.pairs import PairFields
from lfm4ads.nn.temporal import TemporalInterest
from lfm4ads.shard.sharded import Sharded
from lfm4ads.shard.whole_rows import whole_rows
from lfm4ads.train.counted import HistoryConfig
from lfm4ads.train.spectra import by_schema_table


def table_rows(sharded: Sharded, table: str, rows: Ints) -> Doubles:
    """Return some rows (C, K) of a table, on every rank. Collective."""
    found = np.zeros((len(rows), sharded.tables[table][1]))
    for block in whole_rows(sharded, [table]):
        cells = block.rows[table]
        here = (rows >= block.first_row) & (rows < block.first_row + len(cells))
        found[here] = cells[rows[here] - block.first_row].double().cpu().numpy()
    return sharded.ranks.sum(found)


def learned_history(
    config: HistoryConfig, sharded: Sharded, schema: Schema, categories: Ints
) -> dict[str, Doubles]:
    """Return the learnt correlation (T, C, P) of every table set with a fitting interest.

    As in the public script, only the category's part of the vectors and of the positions counts. A
    set is left out where several heads project its vectors, or where its table is managed: such a
    table has no rows of ids that are not in it. Collective.
    """
    model = sharded.model.module
    assert isinstance(model, Lfm)
    feature = schema.features[config.behaviours]
    table = schema.tables[feature.table]
    if table.ids == "managed":
        return {}
    rows = categories
    if table.ids == "hash":
        rows = hash_ids(categories, table=feature.table, rows=table.rows)
    found: dict[str, Doubles] = {}
    for table_set, pairs in model.pairs.items():
        assert isinstance(pairs, PairFields)
        for name in pairs.interests_of(config.behaviours, target=config.target):
            own = by_schema_table(sharded)[feature.table][table_set]
            vectors = table_rows(sharded, own, rows)
            first = pairs.first_column(name, config.behaviours)
            part = slice(first, first + vectors.shape[1])
            positions = _positions(pairs.temporal[name], config.positions)
            if positions is not None:
                found[f"{table_set}/{name}"] = learned_correlation(
                    vectors, vectors, positions[:, part], scale=positions.shape[1] ** -0.5
                )
    return found


def _positions(temporal: nn.Module, count: int) -> Doubles | None:
    """Return the target's and each position's vector (P + 1, K); None if heads project them."""
    assert isinstance(temporal, TemporalInterest)
    if temporal.query is not None:
        return None
    if temporal.positions is None:
        return np.zeros((count + 1, temporal.dim))
    table = temporal.positions.detach().double().cpu().numpy()
    return table[np.minimum(np.arange(count + 1), len(table) - 1)]
