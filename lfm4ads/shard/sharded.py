"""A single-device model placed on ranks, with its optimisers: the only place that wraps."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper
from torchrec.distributed.types import ShardingEnv
from torchrec.optim.keyed import CombinedOptimizer
from torchrec.optim.optimizers import in_backward_optimizer_filter

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.batch import Batch
from lfm4ads.nn.tables import Tables
from lfm4ads.shard.comm import CommConfig, codecs_of
from lfm4ads.shard.ids import IdMaps, IdPiece
from lfm4ads.shard.idspace import IdsConfig
from lfm4ads.shard.initialise import fill_rows
from lfm4ads.shard.mapping import attach_maps, id_state
from lfm4ads.shard.optim import OptimConfig, TableOptimizer, check_device, fused_params
from lfm4ads.shard.place import (
    PlaceConfig,
    find_collections,
    kernel_of,
    plan_tables,
    table_sharders,
    table_weights,
    tables_of,
)
from lfm4ads.shard.planned import open_plan
from lfm4ads.shard.reset import RowReset


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """Placement, optimisers and communication of one model."""

    place: PlaceConfig = field(default_factory=PlaceConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    ids: IdsConfig = field(default_factory=IdsConfig)
    """Of tables that the schema calls managed."""
    comm: CommConfig = field(default_factory=CommConfig)
    pipelined: bool = False
    """Send the ids of the next batch while this one is in its forward and backward pass."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products in training. Weights, tables, optimisers and scoring stay float32."""


@dataclass
class Sharded:
    """A model on its ranks; ``step`` is backward and update in one."""

    model: DistributedModelParallel
    fused: CombinedOptimizer
    dense: list[torch.optim.Optimizer]
    optim: OptimConfig
    ranks: Ranks
    tables: dict[str, tuple[int, int]]
    """(rows, dim) of every table."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products in training."""
    pipelined: bool = False
    """Whether ``train_pass`` overlaps the next batch's ids with a step."""
    maps: dict[str, IdMaps] = field(default_factory=dict)
    """Which ids have rows of managed tables, by path of the ``Tables``."""

    def set_rates(self, step: int) -> None:
        """Put the learning rates of a step, counted from 0 over the whole run, into effect."""
        dense, sparse = self.optim.dense_schedule, self.optim.sparse_schedule
        tables = [self.fused, *self.dense[1:]]
        if not dense.is_constant:
            _scale_rates(self.dense[:1], dense.factor(step))
        if not sparse.is_constant:
            _scale_rates(tables, sparse.factor(step))
            # FBGEMM takes a new rate over when the fused optimiser is stepped, which moves nothing.
            self.fused.step()

    def evaluate(self, loss: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        """Return the loss of a batch to learn from, its products as precise as was chosen."""
        half = self.precision == "bfloat16"
        with torch.autocast(self.ranks.device.type, dtype=torch.bfloat16, enabled=half):
            return loss(batch)

    def step(self, loss: Tensor) -> None:
        """Backpropagate, which updates fused tables, then step the dense parameters.

        Gradients are averaged over ranks: a loss summed over rows must be scaled by world / global
        batch size.
        """
        self.zero_grad()
        loss.backward()
        self.step_dense()

    def zero_grad(self) -> None:
        """Drop the dense gradients of the step before."""
        for optimizer in self.dense:
            optimizer.zero_grad(set_to_none=True)

    def step_dense(self) -> None:
        """Update what the backward pass has not: all but the fused tables."""
        if self.optim.clip_norm:
            parameters = [p for group in self.dense[0].param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.optim.clip_norm)
        for optimizer in self.dense:
            optimizer.step()

    def id_state(self) -> dict[str, IdPiece]:
        """Return the arrays of all id maps, to be saved or written to. Collective."""
        return id_state(self.maps)

    def num_parameters(self) -> dict[str, int]:
        """Return how many numbers are in tables and how many every rank holds besides."""
        dense = {
            name: p for name, p in self.dense_parameters().items() if ".embedding_bags." not in name
        }
        return {
            "tables": sum(rows * dim for rows, dim in self.tables.values()),
            "dense": sum(p.numel() for p in dense.values()),
        }

    def dense_parameters(self) -> dict[str, Tensor]:
        """Return the parameters that every rank holds whole, by name."""
        fused = dict(in_backward_optimizer_filter(self.model.named_parameters(), include=True))
        return {name: p for name, p in self.model.named_parameters() if name not in fused}


def shard_model(
    model: nn.Module,
    *,
    config: ShardConfig,
    ranks: Ranks,
    seed: int,
    lr_scales: Mapping[str, float] | None = None,
) -> Sharded:
    """Place the tables of ``model``, replicate the rest and attach the optimisers.

    Dense parameters must already be equal on all ranks in value: build the model under one seed.

    Args:
        model: Its tables are in ``EmbeddingBagCollection`` and, for lookups id by id, in
            ``EmbeddingCollection`` modules on the meta device; their names are unique.
        config: Placement and optimisers.
        ranks: The job.
        seed: Decides the first values of table rows.
        lr_scales: Factor on the dense learning rate of parameters whose name starts with the key.
    """
    collections = find_collections(model)
    shapes = {
        table.name: (table.num_embeddings, table.embedding_dim)
        for collection in collections.values()
        for table in tables_of(collection)
    }
    weights = table_weights(collections)
    planned = open_plan(config.place, shapes=shapes, ranks=ranks)
    config = replace(config, place=planned.config)
    check_device(config.optim, device=ranks.device)
    _check_managed(model, config=config)
    codecs = codecs_of(config.comm, device=ranks.device)
    sharders = table_sharders(fused_params(config.optim), codecs=codecs)
    plan = plan_tables(
        model, config=config.place, ranks=ranks, sharders=sharders, planned=planned.chosen
    )
    wrapped = DistributedModelParallel(
        module=model,
        env=ShardingEnv.from_process_group(dist.group.WORLD),  # pyright: ignore[reportArgumentType]
        device=ranks.device,
        plan=plan,
        sharders=sharders,
        data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=False),
    )
    _initialise(wrapped, weights=weights, shapes=shapes, seed=seed)
    fused: CombinedOptimizer = wrapped.fused_optimizer
    sharded = Sharded(
        wrapped, fused, [], config.optim, ranks, shapes, config.precision, config.pipelined
    )
    sharded.dense = _dense_optimizers(
        sharded, config.optim, tables=set(weights), lr_scales=lr_scales or {}
    )
    for group in _groups((fused, *sharded.dense)):
        group["first_lr"] = group["lr"]
    _attach_maps(sharded, config=config.ids, weights=weights, seed=seed)
    return sharded


def _attach_maps(
    sharded: Sharded, *, config: IdsConfig, weights: Mapping[str, str], seed: int
) -> None:
    """Give managed tables their maps; a row that changes hands begins anew."""
    reset = RowReset(
        sharded.model,
        fused=sharded.fused,
        dense=sharded.dense,
        weights={table: name for name, table in weights.items()},
        shapes=sharded.tables,
        seed=seed,
    )
    model = sharded.model.module
    sharded.maps = attach_maps(model, config=config, ranks=sharded.ranks, reset=reset)


def _check_managed(model: nn.Module, *, config: ShardConfig) -> None:
    """Refuse for tables whose rows begin anew between steps what would not see it."""
    for tables in model.modules():
        managed = tables.managed.values() if isinstance(tables, Tables) else ()
        for name in (name for table in managed for name in table.names):
            if config.pipelined:
                raise UserError(
                    f"shard.pipelined sends ids a step ahead, but table {name} is managed and gives"
                    " ids their rows between steps; set shard.pipelined to false",
                    everywhere=True,
                )
            if kernel_of(name, config=config.place).kind == "fused_uvm_caching":
                raise UserError(
                    f"table {name} is managed, and rows it begins anew would be stale in the cache"
                    " of fused_uvm_caching; give it the kernel fused or fused_uvm",
                    everywhere=True,
                )


def _scale_rates(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    for group in _groups(optimizers):
        group["lr"] = group["first_lr"] * factor


def _groups(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[dict[str, Any]]:
    for optimizer in optimizers:
        yield from cast(list[dict[str, Any]], optimizer.param_groups)


def _initialise(
    model: DistributedModelParallel,
    *,
    weights: Mapping[str, str],
    shapes: Mapping[str, tuple[int, int]],
    seed: int,
) -> None:
    state = model.state_dict()
    for name, table in weights.items():
        value = state[name]
        if isinstance(value, ShardedTensor):
            for shard in value.local_shards():
                row, column = shard.metadata.shard_offsets
                fill_rows(
                    shard.tensor,
                    table,
                    first_row=row,
                    first_column=column,
                    shape=shapes[table],
                    seed=seed,
                )
        else:
            fill_rows(value, table, first_row=0, first_column=0, shape=shapes[table], seed=seed)


def _dense_optimizers(
    sharded: Sharded, config: OptimConfig, *, tables: set[str], lr_scales: Mapping[str, float]
) -> list[torch.optim.Optimizer]:
    dense: dict[float, list[Tensor]] = {}
    replicated: list[Tensor] = []
    for name, parameter in sharded.dense_parameters().items():
        if not parameter.requires_grad:
            continue
        if name in tables:
            _refuse_dense(config, name)
            replicated.append(parameter)
            continue
        scales = [scale for prefix, scale in lr_scales.items() if name.startswith(prefix)]
        dense.setdefault(scales[0] if scales else 1.0, []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": parameters, "lr": config.dense_lr * scale} for scale, parameters in dense.items()
    ]
    adam = torch.optim.AdamW(groups, lr=config.dense_lr, weight_decay=config.weight_decay)
    return [adam, *([TableOptimizer(replicated, config=config)] if replicated else [])]


def _refuse_dense(config: OptimConfig, weight: str) -> None:
    """A data_parallel table has a gradient summed over rows alone, which some rules cannot use."""
    table = weight.split(".")[-2]
    if config.sparse_clip:
        raise UserError(
            f"shard.optim.sparse_clip is {config.sparse_clip}, but table {table} is placed"
            " data_parallel, where lookups cannot be clipped; place it table_wise",
            everywhere=True,
        )
    if config.sparse_kind == "adam":
        raise UserError(
            f"shard.optim.sparse_kind is adam, but table {table} is placed data_parallel, where it"
            " is not known which rows were looked up; place it table_wise",
            everywhere=True,
        )
