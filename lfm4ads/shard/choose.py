"""Let TorchRec's planner choose placements, on one rank and for all."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import nn
from torch.distributed._shard.sharding_spec.api import EnumerableShardingSpec
from torchrec import EmbeddingBagCollection, EmbeddingCollection
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
from torchrec.distributed.types import (
    ModuleSharder,
    ParameterSharding,
    ShardingPlan,
)

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.shard.layout import Groups, Kind, fills


@dataclass(frozen=True, kw_only=True)
class PlannerConfig:
    """What TorchRec's planner knows of a rank."""

    device_gib: float = 32.0
    """Memory of one rank for tables, their optimiser state and what is sent of them."""
    host_gib: float = 64.0
    """Host memory of one rank, for tables with a fused_uvm kernel."""
    batch_size: int = 512
    """Rows of a rank's step, for the estimate of its time."""

    def __post_init__(self) -> None:
        if min(self.device_gib, self.host_gib, self.batch_size) <= 0:
            raise ValueError("planner.device_gib, host_gib and batch_size must be positive")


@dataclass(frozen=True)
class Chosen:
    """Where a table goes."""

    kind: Kind
    groups: Groups


def choose_places(
    model: nn.Module,
    *,
    config: PlannerConfig,
    kinds: Mapping[str, Kind | Literal["planner"]],
    kernels: Mapping[str, str],
    sharders: list[ModuleSharder[Any]],
    ranks: Ranks,
) -> dict[str, Chosen]:
    """Return a place for every table; tables of a given kind keep it.

    It plans for CUDA on any device, so that one config has one plan: the planner's list for CPU
    leaves out row-wise. The first rank plans, because a rank that fails alone would leave the
    others in TorchRec's collective.

    Raises:
        UserError: the tables do not fit; on every rank.
    """
    found: dict[str, Any] = {}
    with ranks.together():
        if ranks.is_first:
            limits = _constraints(model, kinds=kinds, kernels=kernels, ranks=ranks)
            plan = _plan(model, config=config, limits=limits, sharders=sharders, ranks=ranks)
            found = {
                name: [_kind_of(sharding), _groups_of(sharding)]
                for module in plan.plan.values()
                for name, sharding in cast(dict[str, ParameterSharding], module).items()
            }
    agreed = json.loads(ranks.broadcast(json.dumps(found)))
    return {name: Chosen(kind, groups) for name, (kind, groups) in agreed.items()}


def _constraints(
    model: nn.Module,
    *,
    kinds: Mapping[str, Kind | Literal["planner"]],
    kernels: Mapping[str, str],
    ranks: Ranks,
) -> dict[str, ParameterConstraints]:
    """Keep the planner away from what crashes or silently does not train."""
    free: dict[str, list[Kind]] = {}
    for module in model.modules():
        if isinstance(module, EmbeddingCollection):
            for table in module.embedding_configs():
                free[table.name] = _open_to(table.num_embeddings, pooled=False, ranks=ranks)
        elif isinstance(module, EmbeddingBagCollection):
            for table in module.embedding_bag_configs():
                free[table.name] = _open_to(table.num_embeddings, pooled=True, ranks=ranks)
    limits: dict[str, ParameterConstraints] = {}
    for name, kind in kinds.items():
        allowed = free[name] if kind == "planner" else [kind]
        words = ["grid_shard" if one == "grid" else one for one in allowed]
        kernel = "dense" if kind == "data_parallel" else kernels[name]
        limits[name] = ParameterConstraints(sharding_types=words, compute_kernels=[kernel])
    return limits


def _open_to(rows: int, *, pooled: bool, ranks: Ranks) -> list[Kind]:
    """Return what the planner may choose for a table."""
    kinds: list[Kind] = ["table_wise"]
    if ranks.world > 1:
        kinds.append("column_wise")
    if ranks.world > 1 and fills(rows, ranks.world):
        kinds.append("row_wise")
    if pooled and 1 < ranks.host_ranks < ranks.world and fills(rows, ranks.host_ranks):
        kinds.extend(("table_row_wise", "grid"))
    return kinds


def _plan(
    model: nn.Module,
    *,
    config: PlannerConfig,
    limits: dict[str, ParameterConstraints],
    sharders: list[ModuleSharder[Any]],
    ranks: Ranks,
) -> ShardingPlan:
    topology = Topology(
        world_size=ranks.world,
        local_world_size=ranks.host_ranks or ranks.world,
        compute_device="cuda",
        hbm_cap=int(config.device_gib * 2**30),
        ddr_cap=int(config.host_gib * 2**30),
    )
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=config.batch_size,
        constraints=limits,
        # The memory given is the tables' own: nothing of it is set apart.
        storage_reservation=FixedPercentageStorageReservation(percentage=0.0),
        debug=False,
    )
    try:
        return planner.plan(model, sharders)
    except PlannerError as error:
        raise UserError(
            f"the tables do not fit in {config.device_gib:g} GiB a rank on {ranks.world} ranks"
            f" ({error.error_type.value}); raise shard.place.planner.device_gib, start more ranks"
            " or give large tables a fused_uvm kernel"
        ) from error


def _kind_of(sharding: ParameterSharding) -> str:
    return "grid" if sharding.sharding_type == "grid_shard" else sharding.sharding_type


def _groups_of(sharding: ParameterSharding) -> Groups:
    """Return the ranks by column and row of their shards."""
    if sharding.sharding_spec is None:
        return []
    spec = cast(EnumerableShardingSpec, sharding.sharding_spec)
    groups: dict[int, list[tuple[int, int]]] = {}
    for shard, rank in zip(spec.shards, sharding.ranks or [], strict=True):
        row, column = shard.shard_offsets
        groups.setdefault(column, []).append((row, rank))
    return [[rank for _, rank in sorted(rows)] for _, rows in sorted(groups.items())]
