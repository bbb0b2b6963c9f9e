"""What is placed as one: a piece on one rank, a table's rows over one node, or over all ranks.

Dimension key: T tables, U units, S pieces of tables, R ranks, N nodes.
"""

from dataclasses import dataclass, replace

import numpy as np

from lfm4ads.shard.planning.cluster import ClusterConfig, WorkloadConfig
from lfm4ads.shard.planning.described import DATA_PARALLEL, ROW_WISE, Doubles, Ints, Tables
from lfm4ads.shard.planning.estimate import Shards
from lfm4ads.shard.planning.pieces import (
    Cut,
    Pieces,
    largest_pieces,
    measure_memory,
    measure_seconds,
    row_parts,
)

_OVERFULL = 1e3
"""Added to how full a rank is where it would be too full."""
_EVEN_RATIO = 1.25
"""Memory up to so many times the mean counts as even: time is balanced first."""


@dataclass(frozen=True)
class Units:
    """Units (U,) and what each costs every rank it is on."""

    table_U: Ints
    column_U: Ints
    """Which column part of the table it is."""
    span_U: Ints
    """Ranks it is on, one after the other."""
    start_U: Ints
    """The first of them."""
    seconds_U: Doubles
    hbm_U: Doubles
    host_U: Doubles


def build_units(
    tables: Tables, *, cut: Cut, workload: WorkloadConfig, cluster: ClusterConfig
) -> Units:
    """Return the units of a cut, none of them placed: they all start at rank 0."""
    table_U = np.repeat(np.arange(len(tables)), cut.parts_T)
    each = Cut(cut.kind_T[table_U], cut.parts_T[table_U], cut.host_T[table_U])
    pieces = largest_pieces(tables, table_S=table_U, cut=each, cluster=cluster)
    memory = measure_memory(tables, pieces, workload=workload, cluster=cluster)
    seconds = measure_seconds(tables, pieces, workload=workload, cluster=cluster)
    everywhere_U = np.isin(each.kind_T, (ROW_WISE, DATA_PARALLEL))
    firsts_T = np.cumsum(cut.parts_T) - cut.parts_T
    return Units(
        table_U=table_U,
        column_U=np.arange(len(table_U)) - firsts_T[table_U],
        span_U=np.where(everywhere_U, cluster.ranks, row_parts(each.kind_T, cluster=cluster)),
        start_U=np.zeros(len(table_U), dtype=np.int64),
        seconds_U=seconds.total,
        hbm_U=memory.hbm,
        host_U=memory.host,
    )


def place_units(units: Units, *, base_bytes: float, cluster: ClusterConfig) -> Units:
    """Put each unit, the largest first, where the fullest of time and memory stays lowest.

    Args:
        units: What to place.
        base_bytes: What every rank holds in HBM besides.
        cluster: Where to.
    """
    shape = (cluster.nodes, cluster.gpus_per_node)
    mean = float((units.seconds_U * units.span_U).sum()) / cluster.ranks
    limits = (mean, cluster.hbm_limit_bytes, max(cluster.host_limit_bytes, 1.0))
    costs_U3 = np.stack([units.seconds_U, units.hbm_U, units.host_U], axis=1) / limits
    load_3NG = np.zeros((3, *shape))
    load_3NG[1] = base_bytes / cluster.hbm_limit_bytes
    even = _EVEN_RATIO * (
        float((costs_U3[:, 1] * units.span_U).sum()) / cluster.ranks + float(load_3NG[1, 0, 0])
    )
    everywhere_U = units.span_U == cluster.ranks
    load_3NG += costs_U3[everywhere_U].sum(axis=0)[:, None, None]
    start_U = units.start_U.copy()
    order_U = np.argsort(-costs_U3.max(axis=1), kind="stable")
    taken: dict[int, list[int]] = {}
    for unit in order_U[~everywhere_U[order_U]]:
        full_NG = _fullness(load_3NG, costs_3=costs_U3[unit], even=even)
        table = int(units.table_U[unit])
        # Parts of a table on one rank would be one wider part.
        full_NG.reshape(-1)[taken.get(table, [])] += _OVERFULL**2
        if units.span_U[unit] == 1:
            first = int(full_NG.argmin())
            load_3NG.reshape(3, -1)[:, first] += costs_U3[unit]
        else:
            node = int(full_NG.max(axis=1).argmin())
            first = node * cluster.gpus_per_node
            load_3NG[:, node] += costs_U3[unit][:, None]
        start_U[unit] = first
        taken.setdefault(table, []).append(first)
    return replace(units, start_U=start_U)


def _fullness(load_3NG: Doubles, *, costs_3: Doubles, even: float) -> Doubles:
    """Return how full each rank (N, G) would be: its time over the mean, or its memory."""
    seconds_NG, hbm_NG = load_3NG[0] + costs_3[0], load_3NG[1] + costs_3[1]
    # A node's ranks share its memory.
    host_N = load_3NG[2].mean(axis=1) + costs_3[2] / load_3NG.shape[2]
    memory_NG = np.maximum(hbm_NG, host_N[:, None])
    uneven_NG = np.maximum(memory_NG, hbm_NG / max(even, hbm_NG.min()))
    return np.maximum(seconds_NG, uneven_NG) + np.where(memory_NG > 1, _OVERFULL * memory_NG, 0)


def build_shards(tables: Tables, units: Units, *, cut: Cut) -> Shards:
    """Return every piece with its rows, columns and rank."""
    unit_S = np.repeat(np.arange(len(units.table_U)), units.span_U)
    firsts_U = np.cumsum(units.span_U) - units.span_U
    nth_S = np.arange(len(unit_S)) - firsts_U[unit_S]
    table_S = units.table_U[unit_S]
    kind_S, rows_S = cut.kind_T[table_S], tables.rows_T[table_S]
    whole_S = kind_S == DATA_PARALLEL
    # Blocks as TorchRec cuts them: all of one size, the last ones shorter or empty.
    block_S = np.where(whole_S, rows_S, -(-rows_S // units.span_U[unit_S]))
    first_S = np.where(whole_S, 0, np.minimum(nth_S * block_S, rows_S))
    columns_S = tables.dim_T[table_S] // cut.parts_T[table_S]
    pieces = Pieces(
        table_S=table_S,
        kind_S=kind_S,
        rows_S=np.minimum(block_S, rows_S - first_S),
        columns_S=columns_S,
        host_S=cut.host_T[table_S],
    )
    rank_S = units.start_U[unit_S] + nth_S
    return Shards(pieces, rank_S, first_S, units.column_U[unit_S] * columns_S)
