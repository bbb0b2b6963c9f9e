"""What each rank holds of a sharded model, and whole weights put together from it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from lfm4ads.shard.sharded import Sharded
from lfm4ads.shard.whole import Whole

Weights = dict[str, np.ndarray]
Local = dict[tuple[str, int, int], np.ndarray]


def local_weights(sharded: Sharded) -> Local:
    """Return a copy of this rank's weights by name, first row and first column."""
    found: Local = {}
    for name, value in sharded.model.state_dict().items():
        if isinstance(value, ShardedTensor):
            for shard in value.local_shards():
                row, column = shard.metadata.shard_offsets
                found[name, row, column] = shard.tensor.detach().numpy().copy()
        else:
            found[name, 0, 0] = value.detach().numpy().copy()
    return found


def join_weights(of_ranks: list[Local]) -> Weights:
    """Return whole tensors; what several ranks hold must be equal to the last bit."""
    pieces: dict[str, dict[tuple[int, int], np.ndarray]] = {}
    for local in of_ranks:
        for (name, row, column), value in local.items():
            former = pieces.setdefault(name, {}).setdefault((row, column), value)
            np.testing.assert_array_equal(former, value, err_msg=f"replicas of {name} differ")
    return {name: _join(parts) for name, parts in pieces.items()}


def _join(parts: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
    if len(parts) == 1:
        return next(iter(parts.values()))
    shape = [max(at[axis] + part.shape[axis] for at, part in parts.items()) for axis in (0, 1)]
    whole = np.full(shape, np.nan, dtype=np.float32)
    for (row, column), part in parts.items():
        whole[row : row + part.shape[0], column : column + part.shape[1]] = part
    assert not np.isnan(whole).any()
    return whole


def plain_weights(model) -> Weights:
    """Return the weights of an unsharded model."""
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}


def largest_difference(one: Weights, other: Weights) -> tuple[float, str]:
    """Return how far two models are apart, and where."""
    assert one.keys() == other.keys()
    return max((float(np.abs(one[name] - other[name]).max()), name) for name in one)


def tensors_of(state: Any, prefix: str = "") -> dict[str, Tensor]:
    """Return every tensor of nested dicts, sharded ones as this rank's shards."""
    if isinstance(state, dict):
        return {
            key: tensor
            for name, part in state.items()
            for key, tensor in tensors_of(part, f"{prefix}/{name}").items()
        }
    if hasattr(state, "local_shards"):
        shards = state.local_shards()
        return {f"{prefix}#{i}": shard.tensor.clone() for i, shard in enumerate(shards)}
    if isinstance(state, Whole):
        return {f"{prefix}#{i}": part.tensor.clone() for i, part in enumerate(state.parts)}
    return {prefix: state.detach().clone()}


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Return the names of the tensors that are not equal to the last bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]
