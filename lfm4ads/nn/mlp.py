"""A multi-layer perceptron whose every pre-activation can be read.

Dimension key: B rows, H hidden width.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from lfm4ads.nn.aligned import aligned_linear, shared_linear
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
        return (
            self.after(aligned_linear(x_BH, *self.weight_and_bias(0))) if len(self.layers) else []
        )

    def after(self, first_BH: Tensor) -> list[Tensor]:
        """Return every layer's pre-activation, given the first one's."""
        outputs = [first_BH]
        for position in range(1, len(self.layers)):
            x_BH = F.dropout(F.relu(outputs[-1]), self._dropout, training=self.training)
            outputs.append(aligned_linear(x_BH, *self.weight_and_bias(position)))
        return outputs

    def weight_and_bias(self, position: int) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a layer."""
        layer = cast(nn.Linear, self.layers[position])
        weight = self.bounds[position](layer.weight) if self.bounds else layer.weight
        return weight, layer.bias


def run_together(mlps: Sequence[Mlp], inputs: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return what each MLP gives for its input (B, .); first layers of one tensor are one product.

    Args:
        mlps: Of one hidden layer or more.
        inputs: One an MLP; the same tensor, not an equal one, where they share it.
    """
    readers: dict[int, list[int]] = {}
    for place, x_BW in enumerate(inputs):
        readers.setdefault(id(x_BW), []).append(place)
    outputs: list[list[Tensor]] = [[] for _ in mlps]
    for places in readers.values():
        firsts = shared_linear(
            inputs[places[0]], [mlps[place].weight_and_bias(0) for place in places]
        )
        for place, first_BH in zip(places, firsts, strict=True):
            outputs[place] = mlps[place].after(first_BH)
    return outputs
