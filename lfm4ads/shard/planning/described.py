"""Tables that exist only as numbers: what ``plan`` places.

Dimension key: T tables, K kinds of placement.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import numpy.typing as npt

from lfm4ads.core.errors import UserError
from lfm4ads.data.schema import Schema

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

KINDS = ("table_wise", "column_wise", "table_row_wise", "grid", "row_wise", "data_parallel")
"""Placements the planner chooses from, in PlaceConfig's words and the order of ties."""
TABLE_WISE, COLUMN_WISE, TABLE_ROW_WISE, GRID, ROW_WISE, DATA_PARALLEL = range(len(KINDS))
KERNELS = ("fused", "fused_uvm_caching")


@dataclass(frozen=True, kw_only=True)
class TableGroup:
    """Like tables: of ``rows`` each, or of sizes drawn from ``min_rows`` to ``max_rows``."""

    count: int = 1
    rows: int = 0
    min_rows: int = 0
    max_rows: int = 0
    spread: Literal["log_uniform", "zipf"] = "log_uniform"
    """zipf: the k-th largest table has ``max_rows`` / k rows, down to ``min_rows``."""
    total_rows: int = 0
    """Sizes are scaled to this sum; 0 leaves them as drawn."""
    seed: int = 0
    dim: int
    pooling: float = 1.0
    """Ids of one row of a batch."""
    distinct_ratio: float = 1.0
    """Share of a global batch's ids that are distinct; the rest is read from the cache."""
    unpooled: bool = False
    """Looked up id by id, for a sequence, instead of summed."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"a group's count must be at least 1, got {self.count}")
        if (self.rows >= 1) == (1 <= self.min_rows <= self.max_rows):
            raise ValueError(
                "a group needs either rows or 1 <= min_rows <= max_rows, got"
                f" rows={self.rows} min_rows={self.min_rows} max_rows={self.max_rows}"
            )
        if self.dim < 4 or self.dim % 4:
            raise ValueError(f"a group's dim must be a multiple of 4, got {self.dim}")
        if self.pooling <= 0 or not 0 < self.distinct_ratio <= 1:
            raise ValueError(
                "a group needs pooling > 0 and 0 < distinct_ratio <= 1, got"
                f" {self.pooling} and {self.distinct_ratio}"
            )
        if self.total_rows and self.total_rows < self.count:
            raise ValueError(
                f"a group's total_rows must be at least its count {self.count}, got"
                f" {self.total_rows}"
            )

    def draw_rows(self) -> Ints:
        """Return the rows of each table (count,), the same for a seed on every machine."""
        if self.rows:
            rows = np.full(self.count, float(self.rows))
        elif self.spread == "zipf":
            rows = np.maximum(self.max_rows / np.arange(1, self.count + 1), self.min_rows)
        else:
            low, high = np.log(self.min_rows), np.log(self.max_rows)
            rows = np.exp(np.random.default_rng(self.seed).uniform(low, high, self.count))
        if self.total_rows:
            rows *= self.total_rows / rows.sum()
        whole = np.maximum(np.round(rows), 1).astype(np.int64)
        if self.total_rows:
            whole[whole.argmax()] += self.total_rows - whole.sum()
        return whole


@dataclass(frozen=True, kw_only=True)
class RuleConfig:
    """What the tables whose name matches a pattern may be."""

    kinds: tuple[str, ...] = KINDS
    kernels: tuple[str, ...] = ("fused",)
    """``fused`` keeps a table in HBM, ``fused_uvm_caching`` in host memory behind a cache in HBM;
    of both, the second is taken where HBM does not suffice."""
    cache_ratio: float = 0.2
    """Share of a host table's rows that the cache in HBM holds."""
    cache_hit_ratio: float = 0.0
    """Share of distinct ids found there; 0: ``cache_ratio``, as of uniform traffic, which is the
    worst case."""
    pooling: float = 0.0
    """Ids of one row of a batch, where it is another than the group or the schema says."""

    def __post_init__(self) -> None:
        for key, words, known in (
            ("kinds", self.kinds, KINDS),
            ("kernels", self.kernels, KERNELS),
        ):
            unknown = [word for word in words if word not in known]
            if unknown or not words:
                raise ValueError(
                    f"a rule's {key} must be of {', '.join(known)}, got"
                    f" {unknown[0] if unknown else 'none'}"
                )
        if not 0 < self.cache_ratio <= 1 or not 0 <= self.cache_hit_ratio <= 1:
            raise ValueError(
                "a rule needs 0 < cache_ratio <= 1 and 0 <= cache_hit_ratio <= 1, got"
                f" {self.cache_ratio} and {self.cache_hit_ratio}"
            )
        if self.pooling < 0:
            raise ValueError(f"a rule's pooling must not be negative, got {self.pooling}")


@dataclass(frozen=True)
class Tables:
    """All tables, column by column."""

    names: tuple[str, ...]
    rows_T: Ints
    dim_T: Ints
    pooling_T: Doubles
    distinct_T: Doubles
    """Share of ids that are distinct."""
    unpooled_T: Flags
    allowed_TK: Flags = field(repr=False)
    in_hbm_T: Flags
    """May be held in HBM."""
    on_host_T: Flags
    """May be held in host memory."""
    cache_T: Doubles
    hit_T: Doubles

    def __len__(self) -> int:
        return len(self.names)


def describe_groups(groups: Mapping[str, TableGroup]) -> Tables:
    """Return the tables of all groups; a group of several numbers them: ``<group>_0``."""
    names = [
        name if group.count == 1 else f"{name}_{index}"
        for name, group in groups.items()
        for index in range(group.count)
    ]
    each = [group for group in groups.values() for _ in range(group.count)]
    rows = [group.draw_rows() for group in groups.values()]
    return _tables(
        names,
        rows_T=np.concatenate(rows) if rows else np.empty(0, np.int64),
        dim_T=np.array([group.dim for group in each], dtype=np.int64),
        pooling_T=np.array([group.pooling for group in each]),
        distinct_T=np.array([group.distinct_ratio for group in each]),
        unpooled_T=np.array([group.unpooled for group in each], dtype=bool),
    )


def describe_schema(schema: Schema, *, list_pooling: float) -> Tables:
    """Return the tables of a dataset, looked up once by every feature that shares them.

    Args:
        schema: The dataset's.
        list_pooling: Ids of a list feature whose ``max_length`` is not set.
    """
    pooling = dict.fromkeys(schema.tables, 0.0)
    for feature in schema.features.values():
        if feature.is_sparse:
            ids = 1.0 if feature.kind == "id" else float(feature.max_length or list_pooling)
            pooling[feature.table] += ids
    read = {name: table for name, table in schema.tables.items() if pooling[name]}
    return _tables(
        list(read),
        rows_T=np.array([table.rows for table in read.values()], dtype=np.int64),
        dim_T=np.array([table.dim for table in read.values()], dtype=np.int64),
        pooling_T=np.array([pooling[name] for name in read]),
        distinct_T=np.ones(len(read)),
        unpooled_T=np.zeros(len(read), dtype=bool),
    )


def _tables(
    names: Sequence[str],
    *,
    rows_T: Ints,
    dim_T: Ints,
    pooling_T: Doubles,
    distinct_T: Doubles,
    unpooled_T: Flags,
) -> Tables:
    size = len(names)
    if size == 0:
        raise UserError("there is no table to place; describe some under groups, or give a schema")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise UserError(f"two tables are named {twice[0]}; rename one of the groups")
    return Tables(
        names=tuple(names),
        rows_T=rows_T,
        dim_T=dim_T,
        pooling_T=pooling_T,
        distinct_T=distinct_T,
        unpooled_T=unpooled_T,
        allowed_TK=np.ones((size, len(KINDS)), dtype=bool),
        in_hbm_T=np.ones(size, dtype=bool),
        on_host_T=np.zeros(size, dtype=bool),
        cache_T=np.full(size, RuleConfig().cache_ratio),
        hit_T=np.full(size, RuleConfig().cache_ratio),
    )


def apply_rules(tables: Tables, *, rules: Mapping[str, RuleConfig]) -> Tables:
    """Return the tables as constrained; of several patterns that match, the last counts."""
    allowed_TK, pooling_T = tables.allowed_TK.copy(), tables.pooling_T.copy()
    in_hbm_T, on_host_T = tables.in_hbm_T.copy(), tables.on_host_T.copy()
    cache_T, hit_T = tables.cache_T.copy(), tables.hit_T.copy()
    for pattern, rule in rules.items():
        hit = np.array([fnmatchcase(name, pattern) for name in tables.names])
        if not hit.any():
            raise UserError(
                f"rules names {pattern}, which matches no table; the first table is"
                f" {tables.names[0]}"
            )
        allowed_TK[hit] = [kind in rule.kinds for kind in KINDS]
        in_hbm_T[hit] = "fused" in rule.kernels
        on_host_T[hit] = "fused_uvm_caching" in rule.kernels
        cache_T[hit] = rule.cache_ratio
        hit_T[hit] = rule.cache_hit_ratio or rule.cache_ratio
        if rule.pooling:
            pooling_T[hit] = rule.pooling
    return replace(
        tables,
        allowed_TK=allowed_TK,
        pooling_T=pooling_T,
        in_hbm_T=in_hbm_T,
        on_host_T=on_host_T,
        cache_T=cache_T,
        hit_T=hit_T,
    )
