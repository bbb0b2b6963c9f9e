"""The ways each table may be cut, what each costs, and the choice among them.

Dimension key: T tables, O options.
"""

from dataclasses import dataclass

import numpy as np

from lfm4ads.core.errors import UserError
from lfm4ads.shard.planning.cluster import ClusterConfig, WorkloadConfig
from lfm4ads.shard.planning.described import (
    COLUMN_WISE,
    DATA_PARALLEL,
    GRID,
    KINDS,
    ROW_WISE,
    TABLE_ROW_WISE,
    TABLE_WISE,
    Doubles,
    Flags,
    Ints,
    Tables,
)
from lfm4ads.shard.planning.pieces import (
    Cut,
    largest_pieces,
    measure_memory,
    measure_seconds,
    row_parts,
)


@dataclass(frozen=True)
class Options:
    """What cutting each table in each way would cost."""

    kind_O: Ints
    parts_O: Ints
    """Column parts."""
    possible_TO: Flags
    seconds_TO: Doubles
    """A step's work on the largest piece."""
    hbm_TO: Doubles
    """Bytes of the largest piece."""
    all_seconds_TO: Doubles
    """Work on all pieces, on whatever ranks."""

    def choose(self, *, most_seconds: float, most_bytes: float, host_T: Flags) -> Cut:
        """Return the cheapest cut of each table whose pieces keep to both limits.

        A table that has none takes the one that comes nearest.
        """
        excess_TO = np.maximum(self.seconds_TO / most_seconds, self.hbm_TO / most_bytes)
        excess_TO = np.where(self.possible_TO, excess_TO, np.inf)
        within_TO = excess_TO <= 1
        cost_TO = np.where(within_TO, self.all_seconds_TO, np.inf)
        best_T = np.where(within_TO.any(axis=1), cost_TO.argmin(axis=1), excess_TO.argmin(axis=1))
        return Cut(self.kind_O[best_T], self.parts_O[best_T], host_T)

    @property
    def least_seconds(self) -> float:
        """Return the least work all tables can cost, over all ranks."""
        return float(np.where(self.possible_TO, self.all_seconds_TO, np.inf).min(axis=1).sum())


def build_options(
    tables: Tables,
    *,
    host_T: Flags,
    least_columns: int,
    workload: WorkloadConfig,
    cluster: ClusterConfig,
) -> Options:
    """Return every way of cutting every table, with its costs.

    Raises:
        UserError: a rule leaves a table no kind that this cluster can do.
    """
    ways = _ways(tables, least_columns=least_columns, cluster=cluster)
    kind_O = np.array([kind for kind, _ in ways], dtype=np.int64)
    parts_O = np.array([parts for _, parts in ways], dtype=np.int64)
    shape = (len(tables), len(ways))
    at = np.repeat(np.arange(len(tables)), len(ways))
    cut = Cut(np.tile(kind_O, shape[0]), np.tile(parts_O, shape[0]), host_T[at])
    pieces = largest_pieces(tables, table_S=at, cut=cut, cluster=cluster)
    seconds = measure_seconds(tables, pieces, workload=workload, cluster=cluster).total
    hbm = measure_memory(tables, pieces, workload=workload, cluster=cluster).hbm
    # A data_parallel table is whole on every rank.
    copies_O = np.where(kind_O == DATA_PARALLEL, cluster.ranks, 1)
    pieces_O = parts_O * row_parts(kind_O, cluster=cluster) * copies_O
    possible_TO = _possible(
        tables, kind_O, parts_O, host_T=host_T, least_columns=least_columns, cluster=cluster
    )
    _refuse_impossible(tables, possible_TO=possible_TO, cluster=cluster)
    return Options(
        kind_O,
        parts_O,
        possible_TO,
        seconds.reshape(shape),
        hbm.reshape(shape),
        seconds.reshape(shape) * pieces_O,
    )


def _ways(tables: Tables, *, least_columns: int, cluster: ClusterConfig) -> list[tuple[int, int]]:
    widest = int(tables.dim_T.max()) // least_columns
    by_rank, by_node = min(widest, cluster.ranks), min(widest, cluster.nodes)
    several = cluster.ranks > 1
    inside = cluster.nodes > 1 and cluster.gpus_per_node > 1
    return [
        (TABLE_WISE, 1),
        *((COLUMN_WISE, parts) for parts in range(2, by_rank + 1)),
        *([(TABLE_ROW_WISE, 1)] if inside else []),
        *((GRID, parts) for parts in range(2, by_node + 1) if inside),
        *([(ROW_WISE, 1)] if several else []),
        *([(DATA_PARALLEL, 1)] if several else []),
    ]


def _possible(
    tables: Tables,
    kind_O: Ints,
    parts_O: Ints,
    *,
    host_T: Flags,
    least_columns: int,
    cluster: ClusterConfig,
) -> Flags:
    width_TO = tables.dim_T[:, None] / parts_O
    # FBGEMM wants widths that are multiples of four.
    even_TO = (tables.dim_T[:, None] % (4 * parts_O) == 0) & (width_TO >= least_columns)
    even_TO |= parts_O == 1
    filled_TO = tables.rows_T[:, None] >= row_parts(kind_O, cluster=cluster)
    # TorchRec looks tables up id by id only whole, by rows over all ranks, or by columns.
    by_ids = np.isin(kind_O, (TABLE_WISE, COLUMN_WISE, ROW_WISE))
    fused = ~(host_T[:, None] & (kind_O == DATA_PARALLEL))
    readable_TO = ~tables.unpooled_T[:, None] | by_ids
    return tables.allowed_TK[:, kind_O] & even_TO & filled_TO & readable_TO & fused


def _refuse_impossible(tables: Tables, *, possible_TO: Flags, cluster: ClusterConfig) -> None:
    stuck = np.flatnonzero(~possible_TO.any(axis=1))
    if stuck.size:
        at = int(stuck[0])
        kinds = [kind for kind, ok in zip(KINDS, tables.allowed_TK[at], strict=True) if ok]
        raise UserError(
            f"table {tables.names[at]} ({tables.rows_T[at]} rows x {tables.dim_T[at]}) cannot be"
            f" {' or '.join(kinds)} on {cluster.nodes} x {cluster.gpus_per_node} ranks; allow it"
            " another kind under rules, such as table_wise"
        )
