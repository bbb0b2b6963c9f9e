"""What of a sharded model goes into a checkpoint, and how it comes back."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from lfm4ads.core.checkpoint import load_checkpoint, save_checkpoint
from lfm4ads.core.ranks import Ranks
from lfm4ads.shard.sharded import Sharded


def save_sharded(folder: Path, sharded: Sharded, *, meta: dict[str, Any]) -> None:
    """Write weights and optimiser state of every rank as one checkpoint."""
    save_checkpoint(folder, _state(sharded), meta=meta, ranks=sharded.ranks)


def load_sharded(folder: Path, sharded: Sharded) -> dict[str, Any]:
    """Restore weights and optimiser state in place; return the checkpoint's meta."""
    for optimizer in sharded.dense:
        _materialise(optimizer)
    return load_checkpoint(folder, _state(sharded), ranks=sharded.ranks)


def load_weights(folder: Path, sharded: Sharded) -> dict[str, Any]:
    """Restore weights alone, on any placement and number of ranks; return the checkpoint's meta."""
    return load_checkpoint(folder, {"model": sharded.model.state_dict()}, ranks=sharded.ranks)


def load_tensors(folder: Path, tensors: dict[str, Tensor], *, ranks: Ranks) -> None:
    """Read single dense tensors of a checkpoint in place, by their names in its model."""
    load_checkpoint(folder, {"model": tensors}, ranks=ranks)


def copy_weights(sharded: Sharded) -> dict[str, Tensor]:
    """Return a copy of this rank's weights: a way back to the best epoch without the disk."""
    return {name: shard.clone() for name, shard in local_tensors(sharded).items()}


def put_weights(sharded: Sharded, weights: dict[str, Tensor]) -> None:
    """Overwrite this rank's weights with a copy made by ``copy_weights``."""
    with torch.no_grad():
        for name, shard in local_tensors(sharded).items():
            shard.copy_(weights[name])


def shapes_of(sharded: Sharded) -> dict[str, list[int]]:
    """Return the whole shape of every tensor of the model, by name."""
    return {
        name: list(value.metadata().size if isinstance(value, ShardedTensor) else value.shape)
        for name, value in sharded.model.state_dict().items()
    }


def local_tensors(sharded: Sharded) -> dict[str, Tensor]:
    """Return this rank's part of every tensor of the model, by name and number of the piece."""
    local: dict[str, Tensor] = {}
    for name, value in sharded.model.state_dict().items():
        if hasattr(value, "local_shards"):
            local |= {f"{name}#{i}": shard.tensor for i, shard in enumerate(value.local_shards())}
        else:
            local[name] = value
    return local


def _state(sharded: Sharded) -> dict[str, Any]:
    """Return every tensor that training changes, by parameter name; settings are the config's."""
    fused = {name: state for name, state in sharded.fused.state_dict()["state"].items() if state}
    names = {id(parameter): name for name, parameter in sharded.dense_parameters().items()}
    dense = {
        names[id(parameter)]: dict(state)
        for optimizer in sharded.dense
        for parameter, state in optimizer.state.items()
    }
    parts = {"model": sharded.model.state_dict(), "fused": fused, "dense": dense}
    return {name: part for name, part in parts.items() if part}


def _materialise(optimizer: torch.optim.Optimizer) -> None:
    """Make the first step's state tensors without moving a weight: loading needs targets."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
