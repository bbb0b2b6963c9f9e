"""Where each table goes: a TorchRec plan made without a collective, the same on every rank."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingCollection
from torchrec.distributed.embedding import EmbeddingCollectionSharder
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
from torchrec.modules.embedding_configs import BaseEmbeddingConfig

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks

Collection = EmbeddingBagCollection | EmbeddingCollection
"""Tables looked up as sums over bags, or id by id."""
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


def find_collections(model: nn.Module) -> dict[str, Collection]:
    """Return every collection of tables in a model, by its path."""
    return {
        path: module for path, module in model.named_modules() if isinstance(module, Collection)
    }


def tables_of(collection: Collection) -> list[BaseEmbeddingConfig]:
    """Return what a collection says of its tables."""
    if isinstance(collection, EmbeddingCollection):
        return list(collection.embedding_configs())
    return list(collection.embedding_bag_configs())


def table_weights(collections: Mapping[str, Collection]) -> dict[str, str]:
    """Return the table of each weight, by the weight's name in the model."""
    return {
        f"{path}.{name}": name.split(".")[1]
        for path, collection in collections.items()
        for name, _ in collection.named_parameters()
    }


def plan_tables(
    collections: Mapping[str, Collection],
    *,
    config: PlaceConfig,
    ranks: Ranks,
    fused_params: dict[str, object],
) -> ShardingPlan:
    """Return the plan for the collections of a model, given by their paths; names are unique.

    Raises:
        UserError: a placement names no table, or cannot hold for a table or this number of ranks.
    """
    tables = [(path, table) for path, one in collections.items() for table in tables_of(one)]
    _check_names(config, names=[table.name for _, table in tables])
    load = [0] * ranks.world
    placed: dict[str, dict[str, ParameterShardingGenerator]] = {path: {} for path in collections}
    for path, table in sorted(tables, key=lambda one: -_size(one[1])):
        kind = _kind(table, config=config, world=ranks.world)
        if kind == "data_parallel" and isinstance(collections[path], EmbeddingCollection):
            # TorchRec 1.8: a crash with a corrupted memory, as with the dense kernel.
            raise UserError(
                f"table {table.name} is read id by id, for a sequence, and cannot be data_parallel;"
                " place it table_wise",
                everywhere=True,
            )
        by_load = sorted(range(ranks.world), key=load.__getitem__)
        holders = _holders(kind, dim=table.embedding_dim, by_load=by_load)
        placed[path][table.name] = _place(
            kind, table.name, rows=table.num_embeddings, holders=holders, world=ranks.world
        )
        for rank in holders:
            load[rank] += _size(table) // len(holders)
    sharders = {one.module_type: one for one in table_sharders(fused_params)}
    return ShardingPlan(
        plan={
            path: construct_module_sharding_plan(
                collection,
                per_param_sharding=placed[path],
                sharder=sharders[type(collection)],
                world_size=ranks.world,
                local_size=ranks.world,
                device_type=ranks.device.type,
            )
            for path, collection in collections.items()
        }
    )


def _check_names(config: PlaceConfig, *, names: list[str]) -> None:
    """Refuse a placement of no table; two tables of one name would share their first values."""
    assert len(set(names)) == len(names), names
    unknown = set(config.tables) - set(names)
    if unknown:
        raise UserError(
            f"place.tables names {min(unknown)}, which is no table of the model;"
            f" the tables are {', '.join(sorted(names))}",
            everywhere=True,
        )


def _size(table: BaseEmbeddingConfig) -> int:
    return table.num_embeddings * table.embedding_dim


def _kind(table: BaseEmbeddingConfig, *, config: PlaceConfig, world: int) -> Placement:
    kind = cast(Placement, config.tables.get(table.name, config.default))
    if kind != "auto":
        return kind
    large = table.num_embeddings >= max(config.row_wise_rows, world)
    return "row_wise" if large else "table_wise"


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


def table_sharders(fused_params: dict[str, object]) -> list[ModuleSharder]:
    """Return the sharders of both kinds of collection, with the given fused optimiser."""
    return [
        EmbeddingBagCollectionSharder(fused_params=fused_params),
        EmbeddingCollectionSharder(fused_params=fused_params),
    ]
