"""A multi-layer perceptron whose every pre-activation can be read.

Dimension key: B rows, H hidden width.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class Mlp(nn.Module):
    """Linear layers with ReLU between them: x_{l+1} = W relu(x_l) + b, but x_1 = W x_0 + b.

    The public code of LFM4Ads (arXiv 2508.14948) reads representations before the ReLU, so that
    they keep their sign.
    """

    def __init__(self, width: int, hidden: Sequence[int], *, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in pairwise((width, *hidden))
        )
        self._dropout = dropout
        self.width = (width, *hidden)[-1]

    def forward(self, x_BH: Tensor) -> list[Tensor]:
        """Return the pre-activation (B, hidden[l]) of every layer, first to last."""
        outputs: list[Tensor] = []
        for position, layer in enumerate(self.layers):
            if position:
                x_BH = F.dropout(F.relu(x_BH), self._dropout, training=self.training)
            x_BH = layer(x_BH)
            outputs.append(x_BH)
        return outputs
