"""Upstream weights put into a downstream module; a tensor that matches nothing is an error."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lfm4ads.core.log import log
from lfm4ads.core.ranks import Ranks
from lfm4ads.model.downstream import Downstream, module_weights
from lfm4ads.model.lfm import LfmConfig
from lfm4ads.shard.state import load_tensors


def transplant_module(
    model: Downstream,
    checkpoint: Path,
    *,
    upstream: LfmConfig,
    domain: str,
    tasks: Sequence[int],
    num_tasks: int,
    ranks: Ranks,
) -> None:
    """Start the isomorphic module of ``model`` from the upstream mix tower of one domain.

    Args:
        model: Not yet sharded.
        checkpoint: Checkpoint folder of the upstream run.
        upstream: Shape of the upstream model.
        domain: Branch that is copied.
        tasks: Upstream indices of the downstream tasks; their heads are copied.
        num_tasks: Number of upstream tasks.
        ranks: The job.
    """
    names = module_weights(
        domain=domain, cross_layers=upstream.cross_layers, mlp_layers=len(upstream.mlp)
    )
    own = dict(model.named_parameters())
    task_axis = {"module.heads.shared": 0, "module.heads.delta": 1, "module.heads.bias": 1}
    targets: dict[str, Tensor] = {}
    for name, source in names.items():
        shape = list(own[name].shape)
        if name in task_axis:
            shape[task_axis[name]] = num_tasks
        targets[source] = torch.empty(shape)
    load_tensors(checkpoint, targets, ranks=ranks)
    index = torch.tensor(tasks)
    with torch.no_grad():
        for name, source in names.items():
            value = targets[source]
            if name in task_axis:
                value = value.index_select(task_axis[name], index)
            own[name].copy_(value)
    copied = sum(own[name].numel() for name in names)
    log.info("module: %d tensors (%d numbers) copied from %s", len(names), copied, checkpoint)
