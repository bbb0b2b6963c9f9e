"""Upstream weights put into a downstream module; a tensor that matches nothing is an error."""

from pathlib import Path

import torch

from lfm4ads.core.log import log
from lfm4ads.core.ranks import Ranks
from lfm4ads.model.downstream import Downstream, module_weights
from lfm4ads.shard.state import load_tensors


def transplant_module(model: Downstream, checkpoint: Path, *, ranks: Ranks) -> None:
    """Start the isomorphic module of ``model``, not yet sharded, from an upstream checkpoint."""
    names = module_weights(model)
    own = model.state_dict()
    targets = {source: torch.empty_like(own[name]) for name, source in names.items()}
    load_tensors(checkpoint, targets, ranks=ranks)
    with torch.no_grad():
        for name, source in names.items():
            own[name].copy_(targets[source])
    copied = sum(own[name].numel() for name in names)
    log.info("module: %d tensors (%d numbers) copied from %s", len(names), copied, checkpoint)
