"""Losses over masked labels.

Dimension key: B rows, T tasks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lfm4ads.data.batch import Batch


def full_precision(x: Tensor) -> Tensor:
    """Return a tensor of half-precise products as float32, any other as it is."""
    return x.float() if x.dtype == torch.bfloat16 else x


def masked_bce(
    logits_BT: Tensor,
    batch: Batch,
    *,
    columns: Tensor | None = None,
    weights_BT: Tensor | None = None,
) -> Tensor:
    """Return the binary cross-entropy summed over the labels that exist.

    A sum, not a mean: divided by a constant batch size it makes the same gradient however rows fall
    on ranks, and a task weighs as much as it has labels.

    Args:
        logits_BT: One column a task.
        batch: Labels and masks.
        columns: Task indices of the logits' columns; all tasks when None.
        weights_BT: Factor on each label's loss, one column a logit; 1 when None.
    """
    labels, masks = batch.labels, batch.masks
    if columns is not None:
        labels, masks = labels[:, columns], masks[:, columns]
    return _label_losses(logits_BT, labels, masks=masks, weights_BT=weights_BT).sum()


def bce_by_task(logits_BT: Tensor, batch: Batch, *, weights_BT: Tensor | None = None) -> Tensor:
    """Return the parts (T,) of ``masked_bce``, whose last bits depend on the order of the sum."""
    losses_BT = _label_losses(logits_BT, batch.labels, masks=batch.masks, weights_BT=weights_BT)
    return losses_BT.sum(0)


def _label_losses(
    logits_BT: Tensor, labels_BT: Tensor, *, masks: Tensor, weights_BT: Tensor | None
) -> Tensor:
    logits_BT = full_precision(logits_BT)
    loss_BT = F.binary_cross_entropy_with_logits(logits_BT, labels_BT, reduction="none") * masks
    return loss_BT if weights_BT is None else loss_BT * weights_BT
