"""Where each table goes: a TorchRec plan made without a collective, the same on every rank."""

from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from torchrec import EmbeddingBagCollection
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import (
    ParameterShardingGenerator,
    column_wise,
    construct_module_sharding_plan,
    data_parallel,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ModuleSharder, ShardingPlan

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks

Placement = Literal["auto", "table_wise", "row_wise", "column_wise", "data_parallel"]


@dataclass(frozen=True, kw_only=True)
class PlaceConfig:
    """How tables are placed on ranks."""

    default: Placement = "auto"
    """auto: row_wise from ``row_wise_rows`` rows on, below it table_wise on the emptiest rank."""
    tables: dict[str, str] = field(default_factory=dict)
    """Placement of single tables, by name; OmegaConf 2.4 takes no Literal as a dict's value."""
    row_wise_rows: int = 10_000_000

    def __post_init__(self) -> None:
        for table, kind in self.tables.items():
            if kind not in get_args(Placement):
                raise ValueError(
                    f"place.tables.{table} must be one of {', '.join(get_args(Placement))}, got"
                    f" {kind}"
                )


def plan_tables(
    collection: EmbeddingBagCollection,
    *,
    path: str,
    config: PlaceConfig,
    ranks: Ranks,
    sharder: ModuleSharder,
) -> ShardingPlan:
    """Return the plan for the collection at ``path`` in the model.

    Raises:
        UserError: a placement names no table, or cannot hold on this number of ranks.
    """
    tables = collection.embedding_bag_configs()
    unknown = set(config.tables) - {table.name for table in tables}
    if unknown:
        raise UserError(
            f"place.tables names {min(unknown)}, which is no table of the model;"
            f" the tables are {', '.join(sorted(table.name for table in tables))}",
            everywhere=True,
        )
    load = [0] * ranks.world
    placed: dict[str, ParameterShardingGenerator] = {}
    for table in sorted(tables, key=lambda one: -one.num_embeddings * one.embedding_dim):
        rows, dim = table.num_embeddings, table.embedding_dim
        kind = cast(Placement, config.tables.get(table.name, config.default))
        if kind == "auto":
            kind = "row_wise" if rows >= max(config.row_wise_rows, ranks.world) else "table_wise"
        holders = _holders(kind, dim=dim, by_load=sorted(range(ranks.world), key=load.__getitem__))
        placed[table.name] = _place(kind, table.name, rows=rows, holders=holders, world=ranks.world)
        for rank in holders:
            load[rank] += rows * dim // len(holders)
    per_parameter = construct_module_sharding_plan(
        collection,
        per_param_sharding=placed,
        sharder=sharder,
        world_size=ranks.world,
        local_size=ranks.world,
        device_type=ranks.device.type,
    )
    return ShardingPlan(plan={path: per_parameter})


def _holders(kind: Placement, *, dim: int, by_load: list[int]) -> list[int]:
    """Return the ranks that hold whole columns of a table, the least loaded first."""
    world = len(by_load)
    match kind:
        case "table_wise":
            return by_load[:1]
        case "column_wise":
            # FBGEMM wants widths that are multiples of four.
            return by_load[: max(n for n in range(1, world + 1) if dim % (4 * n) == 0)]
        case _:
            return []


def _place(
    kind: Placement, name: str, *, rows: int, holders: list[int], world: int
) -> ParameterShardingGenerator:
    fused = EmbeddingComputeKernel.FUSED.value
    match kind:
        case "row_wise":
            if rows < world:
                raise UserError(
                    f"table {name} has {rows} rows, too few for row_wise on {world} ranks;"
                    " place it table_wise",
                    everywhere=True,
                )
            return row_wise(compute_kernel=fused)
        case "column_wise":
            if world == 1:
                # One rank holds every column either way, and TorchRec 1.8 cannot place
                # column_wise on one rank.
                return table_wise(rank=0, compute_kernel=fused)
            return column_wise(ranks=holders, compute_kernel=fused)
        case "data_parallel":
            return data_parallel()
        case _:
            return table_wise(rank=holders[0], compute_kernel=fused)


def table_sharder(fused_params: dict[str, object]) -> EmbeddingBagCollectionSharder:
    """Return the sharder of pooled tables with the given fused optimiser."""
    return EmbeddingBagCollectionSharder(fused_params=fused_params)
