"""What of a sharded model goes into a checkpoint, and how it comes back.

``model``: weights and buffers by name. ``sparse``: optimiser state of tables, in a form that any
placement reads (``table_state.py``). ``dense``: optimiser state of parameters that every rank
holds. ``ids``: id maps. ``steps``: Adam's counter. The blocks of row-wise state stand in
``tables.json``.
"""

import json
from pathlib import Path
from typing import Any, cast

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from lfm4ads.core.checkpoint import load_checkpoint, save_checkpoint, tensor_shapes
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json
from lfm4ads.core.ranks import Ranks
from lfm4ads.core.seal import verify_seal
from lfm4ads.shard.sharded import Sharded
from lfm4ads.shard.table_state import Cuts, load_form, save_form, table_cuts
from lfm4ads.shard.whole import row_parts, whole_of, whole_shapes

TABLES = "tables.json"


def save_sharded(folder: Path, sharded: Sharded, *, meta: dict[str, Any], former: str = "") -> None:
    """Write weights and optimiser state of every rank as one checkpoint. Collective.

    ``former`` is the name under which a former checkpoint of the folder is kept.
    """
    state, cuts = full_state(sharded)
    save_checkpoint(
        folder, state, meta=meta, ranks=sharded.ranks, notes={TABLES: cuts}, former=former
    )


def load_sharded(folder: Path, sharded: Sharded) -> dict[str, Any]:
    """Restore weights and optimiser state in place; return the checkpoint's meta. Collective.

    Raises:
        UserError: the checkpoint is torn, lacks a tensor of the model or has one in another shape,
            or has one that the model lacks.
    """
    verify_seal(folder, sharded.ranks)
    for optimizer in sharded.dense:
        _materialise(optimizer)
    cuts = _merged(table_cuts(sharded), sharded.ranks)
    saved: Cuts = {}
    with sharded.ranks.together():
        saved = read_json(folder / TABLES)
        _check_tables(folder, saved=saved, own=cuts)
    sparse, conversions = load_form(sharded, own=cuts, saved=saved)
    state = _state_with(sharded, sparse)
    _check_names(folder, state, ranks=sharded.ranks)
    meta = load_checkpoint(folder, state, ranks=sharded.ranks)
    for one in conversions:
        one.apply()
    for tensor in state.get("steps", {}).values():
        _set_fused_steps(sharded, int(tensor))
    _forget_caches(sharded)
    return meta


def full_state(sharded: Sharded) -> tuple[dict[str, Any], Cuts]:
    """Return every tensor that training changes, sharing its memory, and the tables' cuts.

    Collective. Settings are the config's.
    """
    for optimizer in sharded.dense:
        if not optimizer.state:
            _materialise(optimizer)
            for state in optimizer.state.values():
                for tensor in state.values():
                    tensor.zero_()
    cuts = _merged(table_cuts(sharded), sharded.ranks)
    return _state_with(sharded, save_form(sharded, cuts)), cuts


def load_weights(folder: Path, sharded: Sharded) -> dict[str, Any]:
    """Restore weights and id maps, on any placement and number of ranks; return the meta."""
    state = {"model": _model_state(sharded), "ids": _id_state(sharded)}
    meta = load_checkpoint(
        folder, {name: part for name, part in state.items() if part}, ranks=sharded.ranks
    )
    _forget_caches(sharded)
    return meta


def load_tensors(folder: Path, tensors: dict[str, Tensor], *, ranks: Ranks) -> None:
    """Read single tensors of a checkpoint in place, by their names in its model."""
    load_checkpoint(folder, {"model": tensors}, ranks=ranks)


def copy_weights(sharded: Sharded) -> dict[str, Tensor]:
    """Return a copy of this rank's weights: a way back to the best epoch without the disk."""
    return {name: shard.clone() for name, shard in _local_state(sharded).items()}


def put_weights(sharded: Sharded, weights: dict[str, Tensor]) -> None:
    """Overwrite this rank's weights with a copy made by ``copy_weights``."""
    with torch.no_grad():
        for name, shard in _local_state(sharded).items():
            shard.copy_(weights[name])
    _forget_caches(sharded)


def shapes_of(sharded: Sharded) -> dict[str, list[int]]:
    """Return the whole shape of every tensor of the model, by name."""
    return whole_shapes(_model_state(sharded))


def local_tensors(sharded: Sharded) -> dict[str, Tensor]:
    """Return this rank's part of every tensor of the model, by name and number of the piece."""
    local: dict[str, Tensor] = {}
    for name, value in sharded.model.state_dict().items():
        if hasattr(value, "local_shards"):
            local |= {f"{name}#{i}": shard.tensor for i, shard in enumerate(value.local_shards())}
        else:
            local[name] = value
    return local


def _local_state(sharded: Sharded) -> dict[str, Tensor]:
    """Return this rank's weights, and which ids they are of."""
    ids = {
        f"{path}/{name}": piece.values
        for path, one in sharded.maps.items()
        for name, piece in one.state().items()
    }
    return local_tensors(sharded) | ids


def _id_state(sharded: Sharded) -> dict[str, Tensor]:
    return {
        name: row_parts(piece.values, first_row=piece.first, num_rows=piece.total)
        for name, piece in sharded.id_state().items()
    }


def _model_state(sharded: Sharded) -> dict[str, Tensor]:
    return {
        name: whole_of(value) if isinstance(value, ShardedTensor) else value
        for name, value in sharded.model.state_dict().items()
    }


def _state_with(sharded: Sharded, sparse: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    names = {id(parameter): name for name, parameter in sharded.dense_parameters().items()}
    dense = {
        names[id(parameter)]: dict(state) for parameter, state in sharded.dense[0].state.items()
    }
    parts = {
        "model": _model_state(sharded),
        "sparse": sparse,
        "dense": dense,
        "ids": _id_state(sharded),
        "steps": _fused_steps(sharded),
    }
    return {name: part for name, part in parts.items() if part}


def _fused_modules(sharded: Sharded) -> list[SplitTableBatchedEmbeddingBagsCodegen]:
    modules = sharded.model.modules()
    return [one for one in modules if isinstance(one, SplitTableBatchedEmbeddingBagsCodegen)]


def _forget_caches(sharded: Sharded) -> None:
    """Drop the rows that fused_uvm_caching keeps on the device: host memory was written over."""
    for module in _fused_modules(sharded):
        module.reset_cache_states()


def _fused_steps(sharded: Sharded) -> dict[str, Tensor]:
    """Return how often fused tables were stepped, which Adam's correction takes. Collective."""
    if sharded.optim.sparse_kind != "adam":
        return {}  # the kernels of the others do not count
    mine = [int(cast(Tensor, one.iter)) for one in _fused_modules(sharded)]
    texts = sharded.ranks.texts(str(max(mine, default=0)))
    return {"fused": torch.tensor(max(map(int, texts)))}


def _set_fused_steps(sharded: Sharded, steps: int) -> None:
    for one in _fused_modules(sharded):
        cast(Tensor, one.iter).fill_(steps)
        one.iter_cpu.fill_(steps)


def _merged(mine: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Return the entries of all ranks: a rank may not know a table that others hold."""
    texts = ranks.texts(json.dumps(mine))
    return {name: value for text in texts for name, value in json.loads(text).items()}


def _check_tables(folder: Path, *, saved: Cuts, own: Cuts) -> None:
    for weight in sorted(own.keys() ^ saved.keys()):
        where = "lacks" if weight in own else "has"
        other = "has" if weight in own else "lacks"
        raise UserError(
            f"{folder} {where} the table {weight.split('.')[-2]} ({weight}), which the model"
            f" {other}; use the config that wrote it"
        )


def _check_names(folder: Path, state: dict[str, Any], *, ranks: Ranks) -> None:
    """Refuse a checkpoint that has not exactly the tensors of the model. Collective."""
    own = _merged(whole_shapes(state), ranks)
    with ranks.together():
        saved = tensor_shapes(folder, part="")
        for name in sorted(own.keys() ^ saved.keys()):
            fault = (
                f"has no tensor {name}"
                if name in own
                else f"has the tensor {name}, which the model lacks"
            )
            raise UserError(
                f"{folder} does not fit the model: it {fault}; use the config that wrote it"
            )
        for name, shape in sorted(own.items()):
            if saved[name] != shape:
                raise UserError(
                    f"{folder} does not fit the model: it holds {name} as {saved[name]}, the model"
                    f" as {shape}; use the config that wrote it"
                )


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
