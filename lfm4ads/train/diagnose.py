"""Where a loss that is not finite comes from, in one sentence."""

import torch
from torch import Tensor

from lfm4ads.core.errors import UserError
from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema
from lfm4ads.nn.tables import Tables
from lfm4ads.shard.sharded import Sharded
from lfm4ads.shard.state import local_tensors


def explain_not_finite(sharded: Sharded, batch: Batch, schema: Schema) -> str:
    """Return the first of: table, dense parameter, number or vector feature that is not finite.

    When all of them are finite it is the sum that overflowed, and the feature with the largest
    number is named. To be asked on the rank that saw the fault, after its forward and before the
    step, which spreads the fault everywhere. Not collective.
    """
    for module in sharded.model.module.modules():
        broken = module.broken() if isinstance(module, Tables) else None
        if broken is not None:
            return (
                f"feature {broken[0]} read rows of table {broken[1]} that are not finite; lower"
                " shard.optim.sparse_lr"
            )
    for name, tensor in sharded.dense_parameters().items():
        if not name.startswith("tables.") and not torch.isfinite(tensor).all():
            return (
                f"dense parameter {name} is not finite; lower shard.optim.dense_lr or"
                " shard.optim.clip_norm"
            )
    numbers = schema.select(kind="number")
    spans = {name: slice(at, at + 1) for at, name in enumerate(numbers)}
    # A missing number is NaN and counts as the mean; an infinite one is a fault.
    largest = [("number", name, _largest(batch.numbers[:, span])) for name, span in spans.items()]
    at = 0
    for name in schema.select(kind="vector"):
        length = schema.features[name].length
        largest.append(("vector", name, _largest(batch.vectors[:, at : at + length])))
        at += length
    if not largest:
        return "no table or parameter holds the fault; lower shard.optim.dense_lr or sparse_lr"
    kind, name, value = max(largest, key=lambda one: one[2])
    if value == float("inf"):
        return f"{kind} feature {name} is infinite"
    return (
        f"tables and parameters are finite, the largest input is {value:.3g} in {kind} feature"
        f" {name}; look for extreme values, or lower shard.optim.dense_lr or sparse_lr"
    )


def refuse_not_finite(sharded: Sharded) -> None:
    """Raise on all ranks if any weight of any rank is not finite; asked before weights are saved.

    Buffers may hold infinite bounds. A finite loss may have a gradient that is not, which the next
    step would be the first to show.
    """
    buffers = {name for name, _ in sharded.model.module.named_buffers()}
    with sharded.ranks.together():
        for piece, tensor in local_tensors(sharded).items():
            name = piece.partition("#")[0]
            if name not in buffers and not torch.isfinite(tensor).all():
                raise UserError(
                    f"{name} is not finite and is not saved; lower"
                    " shard.optim.dense_lr, sparse_lr or clip_norm, and start from the checkpoint"
                    " before"
                )


def _largest(values: Tensor) -> float:
    known = values[~values.isnan()].abs()
    return float(known.max()) if len(known) else 0.0
