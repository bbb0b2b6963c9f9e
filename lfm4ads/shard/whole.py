"""A whole tensor of which this rank holds some parts, in the words of DCP.

DCP asks a tensor what to write, what to read and where its parts are (the protocol that DTensor
follows). Unlike torch's ShardedTensor, making one takes no other rank: what the others hold is
theirs to say.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType


@dataclass(frozen=True)
class Part:
    """A box of a whole tensor."""

    first: tuple[int, ...]
    """Where it begins in every dimension."""
    tensor: Tensor


class Whole(Tensor):
    """A tensor of a shape without a value of its own, of which ``parts`` are on this rank."""

    parts: list[Part]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse arithmetic: there is no value."""
        raise TypeError(f"{func} on a tensor that is on several ranks")

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] - torch's has options
        """Return shape and parts; torch's own would look for values."""
        boxes = ", ".join(f"{tuple(one.tensor.shape)} at {one.first}" for one in self.parts)
        return f"Whole({tuple(self.shape)}: {boxes or 'nothing here'})"

    def __create_write_items__(self, fqn: str, _object: object) -> list[WriteItem]:
        """Return what this rank writes."""
        return [
            WriteItem(
                index=MetadataIndex(fqn, torch.Size(part.first)),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=_chunk(part),
                    properties=TensorProperties(dtype=self.dtype),
                    size=self.size(),
                ),
            )
            for part in self.parts
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        """Return what this rank reads."""
        return [_chunk(part) for part in self.parts]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        """Return a part by where it begins."""
        for part in self.parts:
            if torch.Size(part.first) == index.offset:
                return part.tensor
        raise ValueError(f"{index.fqn} has no part at {index.offset} on this rank")


def make_whole(shape: Sequence[int], *, dtype: torch.dtype, parts: Sequence[Part]) -> Whole:
    """Return a tensor of the whole ``shape``; what two ranks hold of it must be equal."""
    made = Tensor._make_wrapper_subclass(Whole, torch.Size(shape), dtype=dtype)  # noqa: SLF001 - torch's way to a tensor without storage
    made.parts = list(parts)
    return made


def whole_of(value: ShardedTensor) -> Whole:
    """Return a sharded tensor as one that needs no process group; parts share its memory."""
    whole = value.metadata()
    return make_whole(
        whole.size,
        dtype=whole.tensor_properties.dtype,
        parts=[Part(tuple(one.metadata.shard_offsets), one.tensor) for one in value.local_shards()],
    )


def row_parts(tensor: Tensor, *, first_row: int, num_rows: int) -> Whole:
    """Return rows ``first_row`` on of a tensor (num_rows, ...), of which others hold the rest.

    A rank without rows gives a tensor (0, ...).
    """
    first = (first_row, *[0] * (tensor.dim() - 1))
    parts = [Part(first, tensor)] if len(tensor) else []
    return make_whole((num_rows, *tensor.shape[1:]), dtype=tensor.dtype, parts=parts)


def map_tensors(
    state: dict[str, Any], change: Callable[[str, Tensor], Tensor], *, prefix: str = ""
) -> dict[str, Any]:
    """Return nested dicts with every tensor on this rank changed, by a name that is its alone."""
    changed: dict[str, Any] = {}
    for key, value in state.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict):
            changed[key] = map_tensors(value, change, prefix=name)
        elif isinstance(value, Whole):
            parts = [
                replace(part, tensor=change(f"{name}#{i}", part.tensor))
                for i, part in enumerate(value.parts)
            ]
            changed[key] = make_whole(value.shape, dtype=value.dtype, parts=parts)
        else:
            changed[key] = change(name, value)
    return changed


def whole_shapes(state: dict[str, Any], *, prefix: str = "") -> dict[str, list[int]]:
    """Return the whole shape of every tensor of nested dicts, by the names DCP gives them."""
    shapes: dict[str, list[int]] = {}
    for key, value in state.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict):
            shapes |= whole_shapes(value, prefix=name)
        else:
            shapes[name] = list(value.shape)
    return shapes


def _chunk(part: Part) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(part.first), part.tensor.size())
