"""A bound on how far a linear layer can stretch its input.

Dimension key: O outputs, I inputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FIRST_STEPS = 30
_STEPS = 2


class SpectralBound(nn.Module):
    """Returns W * min(1, bound / sigma(W)): only a weight above the bound is touched.

    SNGP (Liu et al., arXiv 2006.10108) bounds its hidden layers so: a layer that cannot
    stretch keeps what is far from the data far, and the variance of the head above can see it. The
    weight itself stays what the optimiser holds, under its own name; SNGP's code overwrites it in
    place, which a second forward before the backward forbids.

    Sigma comes from power iteration, whose vectors are buffers that move in training alone. They
    start from fixed numbers and follow from the weights, so ranks with equal weights hold equal
    vectors without a broadcast. They lag the optimiser by a step: under large steps a weight stood
    up to a tenth above the bound, and at it within a few forwards once the weights held still.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight_OI: Tensor, *, bound: float) -> None:
        super().__init__()
        if not bound > 0:
            raise ValueError(f"the spectral bound must be positive, got {bound}")
        self._bound = bound
        # Its own generator: a bound must not change the first values of the layers that follow.
        start_I = torch.randn(weight_OI.shape[1], generator=torch.Generator().manual_seed(0))
        self.register_buffer("right", F.normalize(start_I, dim=0).to(weight_OI))
        self.register_buffer("left", weight_OI.new_zeros(weight_OI.shape[0]))
        self._iterate(weight_OI, steps=_FIRST_STEPS)

    def forward(self, weight_OI: Tensor) -> Tensor:
        """Return the weight (O, I) with its largest singular value at most the bound."""
        if self.training:
            self._iterate(weight_OI, steps=_STEPS)
        # Copies: the buffers move again in a second forward before this one's backward.
        sigma = self.left.clone() @ (weight_OI @ self.right.clone())
        return weight_OI * (self._bound / sigma.clamp_min(self._bound))

    @torch.no_grad()
    def _iterate(self, weight_OI: Tensor, *, steps: int) -> None:
        right_I = self.right
        left_O = self.left
        for _ in range(steps):
            left_O = F.normalize(weight_OI @ right_I, dim=0)
            right_I = F.normalize(weight_OI.T @ left_O, dim=0)
        self.left.copy_(left_O)
        self.right.copy_(right_I)
