"""Upstream weights put into a downstream model; a tensor that matches nothing is an error."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lfm4ads.core.checkpoint import tensor_shapes
from lfm4ads.core.errors import UserError
from lfm4ads.core.log import log
from lfm4ads.shard.mapping import load_maps
from lfm4ads.shard.sharded import Sharded
from lfm4ads.shard.state import load_tensors, shapes_of


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What became of every tensor that could have come from the upstream, by its own name."""

    copied: dict[str, list[int]]
    """Name -> shape."""
    resized: dict[str, list[list[int]]]
    """Name -> shapes here and upstream: what both have is copied, the rest keeps its start."""
    skipped: dict[str, list[int]]
    """What starts on its own, of the network that was asked for."""

    def as_json(self) -> dict[str, Any]:
        """Return the report's entry, with the share of numbers that were copied."""
        own = [*self.copied.values(), *(one for one, _ in self.resized.values())]
        both = [[min(pair) for pair in zip(*pairs, strict=True)] for pairs in self.resized.values()]
        taken = sum(math.prod(shape) for shape in (*self.copied.values(), *both))
        share = taken / max(1, sum(math.prod(shape) for shape in (*own, *self.skipped.values())))
        return {"share": share, **asdict(self)}


def transplant(
    sharded: Sharded, names: Mapping[str, str], checkpoint: Path, *, prefix: str
) -> Coverage:
    """Load upstream tensors into a sharded model. Collective.

    Args:
        sharded: The downstream model.
        names: Own name -> upstream name of what is taken.
        checkpoint: Of the upstream.
        prefix: Of the own names that could have been taken; the others of these are skipped.

    Raises:
        UserError: The upstream lacks a tensor, or has one in a shape that does not fit: of another
            number of dimensions, or a table of another size.
    """
    own, sizes = sharded.model.state_dict(), shapes_of(sharded)
    shapes: dict[str, list[int]] = {}
    with sharded.ranks.together():
        shapes |= tensor_shapes(checkpoint)
    same: dict[str, Any] = {}
    resized: dict[str, str] = {}
    for name, source in names.items():
        if source not in shapes:
            raise UserError(
                f"{checkpoint} has no tensor {source}, which {name} starts from; use the upstream"
                " that the representations come from",
                everywhere=True,
            )
        if sizes[name] == shapes[source]:
            same[source] = own[name]
        else:
            resized[name] = source
    load_tensors(checkpoint, same, ranks=sharded.ranks)
    # Rows of a managed table mean nothing without the ids they are of.
    load_maps(checkpoint, sharded.maps, sources=_maps_of(names, sharded), ranks=sharded.ranks)
    for name, source in resized.items():
        _load_overlap(own[name], source, shapes[source], checkpoint=checkpoint, sharded=sharded)
    coverage = Coverage(
        copied={name: sizes[name] for name in names if name not in resized},
        resized={name: [sizes[name], shapes[names[name]]] for name in resized},
        skipped={
            name: size
            for name, size in sizes.items()
            if name.startswith(prefix) and name not in names
        },
    )
    log.info(
        "%s: %d tensors copied, %d resized, %d start on their own; %.0f %% of the numbers from %s",
        prefix.rstrip("."),
        len(coverage.copied),
        len(coverage.resized),
        len(coverage.skipped),
        100 * coverage.as_json()["share"],
        checkpoint,
    )
    return coverage


def _maps_of(names: Mapping[str, str], sharded: Sharded) -> dict[str, str]:
    """Return own path -> upstream path of every ``Tables`` whose tables are taken."""
    return {
        path: source.removesuffix(name.removeprefix(path)).removesuffix(".")
        for path in sharded.maps
        for name, source in names.items()
        if name.startswith(f"{path}.")
    }


def _load_overlap(
    own: Tensor, source: str, shape: list[int], *, checkpoint: Path, sharded: Sharded
) -> None:
    """Copy what both shapes have, such as the heads of the scenarios the upstream knew."""
    if hasattr(own, "local_shards") or own.dim() != len(shape):
        raise UserError(
            f"{checkpoint} holds {source} as {shape}, which is not the downstream model's; use the"
            " schema and model that the upstream was trained with",
            everywhere=True,
        )
    whole = torch.empty(shape, dtype=own.dtype)
    load_tensors(checkpoint, {source: whole}, ranks=sharded.ranks)
    both = tuple(slice(min(pair)) for pair in zip(own.shape, shape, strict=True))
    with torch.no_grad():
        own[both].copy_(whole[both])
