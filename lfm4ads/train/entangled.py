"""Distances of user-item pairs in the tables of trained models, and the conflict of two tasks.

Dimension key: B rows, N pairs, K width of a table, T table sets, S streams, M experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lfm4ads.analysis.entanglement import Doubles, Mask, mixture_distances, pair_distances
from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Array, Ranks
from lfm4ads.data.batch import Batch
from lfm4ads.data.hashing import mix64
from lfm4ads.data.reader import Reader
from lfm4ads.data.schema import Schema
from lfm4ads.model.lfm import Lfm
from lfm4ads.nn.sequences import bag_sums
from lfm4ads.nn.tables import Looked
from lfm4ads.shard.sharded import Sharded
from lfm4ads.train.counted import passes


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Which pairs are looked at."""

    user: str = "user_id"
    item: str = "item_id"
    """Id features."""
    active_percentile: float = 60.0
    """Only pairs whose user and item are looked up more often than so many percent of theirs."""
    max_pairs: int = 1_000_000
    """Of all ranks; of more, a sample by hash of row_id, the same on any number of ranks."""

    def __post_init__(self) -> None:
        if not 0 <= self.active_percentile < 100 or self.max_pairs < 1:
            raise ValueError("need 0 <= pairs.active_percentile < 100 and pairs.max_pairs >= 1")


@dataclass(frozen=True)
class Pairs:
    """Distances of the pairs of all ranks in one model, always in the same order."""

    distance_N: dict[str, Doubles]
    """By table set, and by ``mixture`` or ``mixture <task>`` where experts of several are gated."""
    user_row_N: Array
    item_row_N: Array
    """Table rows of the pairs."""


def check_pairs_config(config: PairsConfig, schema: Schema) -> None:
    """Refuse features that are no ids, or whose tables are managed."""
    for name in (config.user, config.item):
        if name not in schema.select(kind="id"):
            raise UserError(
                f"pairs names {name}, which is no id feature; those are"
                f" {', '.join(schema.select(kind='id'))}",
                everywhere=True,
            )
        if schema.tables[schema.features[name].table].ids == "managed":
            raise UserError(
                f"pairs names {name}, whose table {schema.features[name].table} is managed; choose"
                " a feature of another table",
                everywhere=True,
            )


@torch.no_grad()
def measure_pairs(
    config: PairsConfig,
    sharded: Sharded,
    reader: Reader,
    days: Sequence[int],
    *,
    ranks: Ranks,
) -> Pairs:
    """Return the distances of the pairs in a model's tables. Collective."""
    model = sharded.model.module
    assert isinstance(model, Lfm)
    schema, streams = reader.dataset.schema, list(reader.dataset.schema.tasks)
    total = sum(reader.dataset.rows(day) for day in days)
    parts: dict[str, list[Doubles]] = {}
    rows: dict[str, list[Array]] = {config.user: [], config.item: []}
    gates: list[Doubles] = []
    sets = list(model.users)
    sharded.model.eval()
    for batch in passes(reader, days, ranks=ranks):
        moved = batch.to(ranks.device)
        looked = model.tables(moved.sparse)
        kept_B = _kept(batch, share=min(1.0, config.max_pairs / total), names=tuple(rows))
        for table_set in sets:
            sides = [
                _vectors(model, looked, moved, schema, name, table_set=table_set)[kept_B]
                for name in rows
            ]
            parts.setdefault(table_set, []).append(pair_distances(*sides))
        if len(sets) > 1:
            gates.append(_set_weights(model, sharded.model(moved).weights, sets)[kept_B])
        for name, found in rows.items():
            # Rows of kept pairs have exactly one id.
            has_B = batch.sparse[name].lengths().numpy() > 0
            one = np.zeros(len(batch), dtype=np.int64)
            one[has_B] = batch.sparse[name].values().numpy()
            found.append(one[kept_B])
    whole = {name: _joined(found, ranks=ranks) for name, found in parts.items()}
    if gates:
        whole |= _mixtures(whole, _joined(gates, ranks=ranks), streams=streams)
    users, items = (_joined(rows[name], ranks=ranks) for name in (config.user, config.item))
    return Pairs(whole, users, items)


def _kept(batch: Batch, *, share: float, names: tuple[str, str] | tuple[str, ...]) -> Mask:
    """Return the rows (B,) of the sample that have both ids."""
    kept_B = batch.valid.numpy().copy()
    if share < 1:
        kept_B &= mix64(batch.row_id.numpy()) < np.uint64(share * 2.0**63) * np.uint64(2)
    for name in names:
        kept_B &= batch.sparse[name].lengths().numpy() == 1
    return kept_B


def _vectors(
    model: Lfm, looked: Looked, batch: Batch, schema: Schema, feature: str, *, table_set: str
) -> Array:
    """Return a feature's rows (B, K) of one set."""
    key = model.tables.key(feature, table_set=table_set)
    if model.tables.is_pooled(feature):
        assert looked.pooled is not None
        return looked.pooled[key].float().cpu().numpy()
    at = schema.select(sparse=True).index(feature)
    lengths_B = batch.sparse.lengths().view(len(batch.sparse.keys()), -1)[at]
    return bag_sums(looked.rows[key].float(), lengths_B).cpu().numpy()


def _set_weights(model: Lfm, weight_BSM: Tensor, sets: Sequence[str]) -> Doubles:
    """Return how much each stream reads of each set (B, S, T)."""
    owners = [table_set for table_set, _ in model.mix.fields_of_experts().values()]
    weight = weight_BSM.double().cpu().numpy()
    columns = [
        weight[:, :, [at for at, one in enumerate(owners) if one == table_set]].sum(2)
        for table_set in sets
    ]
    return np.stack(columns, axis=2)


def _mixtures(
    distances: dict[str, Doubles], gate_NST: Doubles, *, streams: Sequence[str]
) -> dict[str, Doubles]:
    distance_NT = np.stack(list(distances.values()), axis=1)
    if gate_NST.shape[1] == 1:
        return {"mixture": mixture_distances(distance_NT, gate_NST[:, 0])}
    return {
        f"mixture {task}": mixture_distances(distance_NT, gate_NST[:, at])
        for at, task in enumerate(streams)
    }


def _joined(parts: Sequence[Array], *, ranks: Ranks) -> Array:
    return np.concatenate(ranks.gather(np.concatenate(parts)))
