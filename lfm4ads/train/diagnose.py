"""Where a loss that is not finite comes from, in one sentence."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema
from lfm4ads.shard.sharded import Sharded
from lfm4ads.shard.state import local_tensors


def explain_not_finite(sharded: Sharded, batch: Batch, schema: Schema) -> str:
    """Return the first of: table, dense parameter, number or vector feature that is not finite.

    When all of them are finite it is the sum that overflowed, and the feature with the largest
    number is named. To be asked before the step is taken, which spreads the fault everywhere.
    """
    for name, tensor in local_tensors(sharded).items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return _words_of_parameter(name, schema)
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


def _largest(values: Tensor) -> float:
    known = values[~values.isnan()].abs()
    return float(known.max()) if len(known) else 0.0


def _words_of_parameter(name: str, schema: Schema) -> str:
    parts = name.partition("#")[0].split(".")
    for place, part in enumerate(parts[:-1]):
        if part in ("embedding_bags", "embeddings"):
            table = parts[place + 1]
            readers = _readers(schema, table.rpartition("/")[2])
            return (
                f"table {table} (read by {', '.join(readers)}) holds rows that are not finite;"
                " lower shard.optim.sparse_lr"
            )
    return (
        f"dense parameter {name.partition('#')[0]} is not finite; lower shard.optim.dense_lr or"
        " shard.optim.clip_norm"
    )


def _readers(schema: Schema, table: str) -> Sequence[str]:
    return [name for name, one in schema.features.items() if one.table == table] or ["no feature"]
