"""A multi-layer perceptron whose every pre-activation can be read.

Dimension key: B rows, H hidden width.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from lfm4ads.nn.aligned import aligned_linear
from lfm4ads.nn.spectral import SpectralBound


class Mlp(nn.Module):
    """Linear layers with ReLU between them: x_{l+1} = W relu(x_l) + b, but x_1 = W x_0 + b.

    The public code of LFM4Ads (arXiv 2508.14948) reads representations before the ReLU, so that
    they keep their sign.

    Args:
        width: Of the input.
        hidden: Width of every layer.
        dropout: Share of activations dropped between layers in training.
        spectral: Largest singular value of every layer's weight; 0 leaves them free.
    """

    def __init__(
        self, width: int, hidden: Sequence[int], *, dropout: float = 0.0, spectral: float = 0.0
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in pairwise((width, *hidden))
        )
        bounded = list(self.layers) if spectral else []
        self.bounds = nn.ModuleList(
            SpectralBound(cast(nn.Linear, layer).weight, bound=spectral) for layer in bounded
        )
        self._dropout = dropout
        self.width = (width, *hidden)[-1]

    def forward(self, x_BH: Tensor) -> list[Tensor]:
        """Return the pre-activation (B, hidden[l]) of every layer, first to last."""
        outputs: list[Tensor] = []
        for position in range(len(self.layers)):
            if position:
                x_BH = F.dropout(F.relu(x_BH), self._dropout, training=self.training)
            x_BH = self._layer(position, x_BH)
            outputs.append(x_BH)
        return outputs

    def _layer(self, position: int, x_BH: Tensor) -> Tensor:
        layer = cast(nn.Linear, self.layers[position])
        weight = self.bounds[position](layer.weight) if self.bounds else layer.weight
        return aligned_linear(x_BH, weight, layer.bias)
