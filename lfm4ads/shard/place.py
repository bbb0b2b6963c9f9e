"""Where each table goes: a TorchRec plan, the same on every rank."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from torch import nn
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharding_spec.api import EnumerableShardingSpec
from torchrec import EmbeddingBagCollection, EmbeddingCollection
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import placement
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    ModuleSharder,
    ParameterSharding,
    QuantizedCommCodecs,
    ShardingPlan,
    ShardingType,
)
from torchrec.modules.embedding_configs import BaseEmbeddingConfig

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.shard.choose import Chosen, PlannerConfig, choose_places
from lfm4ads.shard.kernel import KernelConfig, cache_params, check_kernel, compute_kernel
from lfm4ads.shard.layout import Kind, Load, check_cut, choose_groups, cut, fills

Collection = EmbeddingBagCollection | EmbeddingCollection
"""Tables looked up as sums over bags, or id by id."""
Placement = Literal["auto", "planner", Kind]
_POOLED_ONLY = ("data_parallel", "table_row_wise", "table_column_wise", "grid")


@dataclass(frozen=True, kw_only=True)
class PlaceConfig:
    """How tables are placed on ranks."""

    default: Placement = "auto"
    """auto: row_wise from ``row_wise_rows`` rows on, below it table_wise on the emptiest rank.
    planner: TorchRec's planner chooses by its model of the step time and the memory of a rank."""
    tables: dict[str, str] = field(default_factory=dict)
    """Placement of single tables, by name; OmegaConf 2.4 takes no Literal as a dict's value."""
    row_wise_rows: int = 10_000_000
    kernel: KernelConfig = field(default_factory=KernelConfig)
    """Of all tables that ``kernels`` does not name."""
    kernels: dict[str, KernelConfig] = field(default_factory=dict)
    """Of single tables, by name."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    plan: Path | None = None
    """placement.json of the plan stage, for all tables that ``tables`` does not name."""

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
    model: nn.Module,
    *,
    config: PlaceConfig,
    ranks: Ranks,
    sharders: list[ModuleSharder[Any]],
    planned: Mapping[str, Chosen] | None = None,
) -> ShardingPlan:
    """Return the plan for all collections of a model; names of tables are unique.

    It takes no collective, unless TorchRec's planner is asked: that runs on the first rank.
    ``planned`` says who holds a table; the others go to the emptiest ranks.

    Raises:
        UserError: a placement names no table, or cannot hold for a table or this number of ranks.
    """
    collections = find_collections(model)
    tables = [(path, table) for path, one in collections.items() for table in tables_of(one)]
    _check_names(config, names=[table.name for _, table in tables])
    load = Load(numbers=[0] * ranks.world, host_ranks=ranks.host_ranks or ranks.world)
    kinds: dict[str, Kind | Literal["planner"]] = {}
    for path, table in tables:
        kinds[table.name] = kind = _kind(table, config=config, world=ranks.world)
        pooled = isinstance(collections[path], EmbeddingBagCollection)
        _check(table, kind=kind, pooled=pooled, config=config, load=load)
    chosen = dict(planned or {})
    if "planner" in kinds.values():
        kernels = {name: compute_kernel(kernel_of(name, config=config)) for name in kinds}
        chosen |= choose_places(
            model,
            config=config.planner,
            kinds=kinds,
            kernels=kernels,
            sharders=sharders,
            ranks=ranks,
        )
    plan = {path: EmbeddingModuleShardingPlan() for path in collections}
    for path, table in sorted(tables, key=lambda one: -_size(one[1])):
        kind, one = kinds[table.name], chosen.get(table.name)
        if one is None:
            assert kind != "planner"
            one = Chosen(kind, choose_groups(kind, dim=table.embedding_dim, load=load))
        kernel = kernel_of(table.name, config=config)
        plan[path][table.name] = _place(table, chosen=one, kernel=kernel, load=load, ranks=ranks)
    return ShardingPlan(plan=dict(plan))


def _check_names(config: PlaceConfig, *, names: list[str]) -> None:
    """Refuse a placement of no table; two tables of one name would share their first values."""
    assert len(set(names)) == len(names), names
    for setting, given in (("tables", config.tables), ("kernels", config.kernels)):
        unknown = set(given) - set(names)
        if unknown:
            raise UserError(
                f"place.{setting} names {min(unknown)}, which is no table of the model;"
                f" the tables are {', '.join(sorted(names))}",
                everywhere=True,
            )


def _size(table: BaseEmbeddingConfig) -> int:
    return table.num_embeddings * table.embedding_dim


def kernel_of(table: str, *, config: PlaceConfig) -> KernelConfig:
    """Return the kernel of a table, by its name."""
    return config.kernels.get(table, config.kernel)


def _kind(
    table: BaseEmbeddingConfig, *, config: PlaceConfig, world: int
) -> Kind | Literal["planner"]:
    kind = cast(Placement, config.tables.get(table.name, config.default))
    if kind == "auto":
        rows = table.num_embeddings
        return "row_wise" if rows >= config.row_wise_rows and fills(rows, world) else "table_wise"
    if kind in ("column_wise", "table_column_wise") and world == 1:
        # One rank holds every column either way, and TorchRec 1.8 cannot cut them on one rank.
        return "table_wise"
    return kind


def _check(
    table: BaseEmbeddingConfig,
    *,
    kind: Kind | Literal["planner"],
    pooled: bool,
    config: PlaceConfig,
    load: Load,
) -> None:
    check_kernel(kernel_of(table.name, config=config), table=table.name)
    if kind in _POOLED_ONLY and not pooled:
        # TorchRec 1.8: data_parallel crashes with a corrupted memory, as the dense kernel does;
        # for the others it has no sharding.
        raise UserError(
            f"table {table.name} is read id by id, for a sequence, and cannot be {kind};"
            " place it table_wise, row_wise or column_wise",
            everywhere=True,
        )
    if kind == "data_parallel" and table.name in config.kernels:
        raise UserError(
            f"place.kernels names table {table.name}, which is placed data_parallel, whole on every"
            " rank and without a fused kernel; leave one of the two out",
            everywhere=True,
        )
    if kind != "planner":
        shape = (table.num_embeddings, table.embedding_dim)
        check_cut(table.name, kind=kind, shape=shape, load=load)


def _place(
    table: BaseEmbeddingConfig, *, chosen: Chosen, kernel: KernelConfig, load: Load, ranks: Ranks
) -> ParameterSharding:
    """Return TorchRec's words for where a table goes, and count it."""
    if chosen.kind == "data_parallel":
        return ParameterSharding(
            sharding_type=ShardingType.DATA_PARALLEL.value,
            compute_kernel=EmbeddingComputeKernel.DENSE.value,
            ranks=list(range(ranks.world)),
        )
    pieces = cut(chosen.groups, shape=(table.num_embeddings, table.embedding_dim))
    load.add(pieces)
    shards = [
        ShardMetadata(
            shard_offsets=[piece.first_row, piece.first_column],
            shard_sizes=[piece.rows, piece.columns],
            placement=placement(ranks.device.type, piece.rank, load.host_ranks),
        )
        for piece in pieces
    ]
    kind = "grid_shard" if chosen.kind == "grid" else chosen.kind
    return ParameterSharding(
        sharding_type=ShardingType(kind).value,
        compute_kernel=compute_kernel(kernel),
        ranks=[piece.rank for piece in pieces],
        sharding_spec=EnumerableShardingSpec(shards),
        cache_params=cache_params(kernel),
    )


def table_sharders(
    fused_params: dict[str, object], *, codecs: dict[str, QuantizedCommCodecs] | None
) -> list[ModuleSharder[Any]]:
    """Return the sharders of both kinds of collection, with the given fused optimiser."""
    return [
        EmbeddingBagCollectionSharder(fused_params, codecs),
        EmbeddingCollectionSharder(fused_params, codecs),
    ]
