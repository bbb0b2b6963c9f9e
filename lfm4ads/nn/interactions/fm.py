"""Factorisation machines with nothing, a scalar or a matrix between two fields.

All in vector form: the sum over pairs of an element-wise product, so that an MLP can follow; the
sum of its components is the scalar score of the papers (section 3.2 of arXiv 2403.00793 names
them).

Dimension key: B rows, N fields, K width of a field, W = N K, P pairs of fields.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from lfm4ads.nn.interactions.layout import FieldLayout, pair_indices


class Fm(nn.Module):
    """sum_{i<j} v_i * v_j (B, K), as half of the square of the sum minus the sum of squares.

    The largest tensor is the input's size. Rendle, ICDM 2010.
    """

    def __init__(self, layout: FieldLayout) -> None:
        super().__init__()
        self.width = layout.equal_dim("fm")
        self._num_fields = layout.num_fields
        self.layer_names = ["fm"]
        self.layer_dims = [self.width]

    def forward(self, x_BW: Tensor) -> list[Tensor]:
        """Return the one layer (B, K)."""
        x_BNK = x_BW.unflatten(1, (self._num_fields, self.width))
        return [(x_BNK.sum(1).square() - x_BNK.square().sum(1)) / 2]


class WeightedFm(nn.Module):
    """sum_{i<j} w_ij * v_i * v_j (B, K), with a weight of its own for every pair.

    kind fwfm: w_ij is a scalar (Pan et al., WWW 2018). kind fmfm: it is a vector, the diagonal of
    FmFM's matrix (the "vectorised" option of the paper). Weights start at 1: the FM is the starting
    point, and a pair's weight leaves it only as far as the data pull. O(B N^2 K) multiplications;
    the largest tensor is the input's size.
    """

    _first: Tensor
    _second: Tensor

    def __init__(self, layout: FieldLayout, *, kind: Literal["fwfm", "fmfm"]) -> None:
        super().__init__()
        self.width = layout.equal_dim(kind)
        self._num_fields = layout.num_fields
        self.layer_names = [kind]
        self.layer_dims = [self.width]
        shape = () if kind == "fwfm" else (self.width,)
        self.weight = nn.Parameter(torch.ones(layout.num_pairs, *shape))
        first_P, second_P = pair_indices(layout.num_fields)
        self.register_buffer("_first", first_P, persistent=False)
        self.register_buffer("_second", second_P, persistent=False)

    def forward(self, x_BW: Tensor) -> list[Tensor]:
        """Return the one layer (B, K)."""
        x_BNK = x_BW.unflatten(1, (self._num_fields, self.width))
        # One triangle of the symmetric weights meets every pair once: no half, no diagonal.
        size = (self._num_fields, self._num_fields, *self.weight.shape[1:])
        weight_NN = self.weight.new_zeros(size)
        weight_NN[self._second, self._first] = self.weight
        words = "ji,bik->bjk" if self.weight.dim() == 1 else "jik,bik->bjk"
        partner_BNK = torch.einsum(words, weight_NN, x_BNK)
        return [(x_BNK * partner_BNK).sum(1)]


class FmFm(nn.Module):
    """sum_{i<j} (v_i M_ij) * v_j (B, K), one matrix a pair (Sun et al., WWW 2021).

    Matrices start at the identity: the FM is the starting point. Weights are P K^2 numbers, the
    largest tensor of a batch is the input's size: all partners of a field are one product.
    """

    def __init__(self, layout: FieldLayout) -> None:
        super().__init__()
        self.width = layout.equal_dim("fmfm")
        self._num_fields = layout.num_fields
        self.layer_names = ["fmfm"]
        self.layer_dims = [self.width]
        self.weight = nn.Parameter(torch.eye(self.width).repeat(layout.num_pairs, 1, 1))

    def forward(self, x_BW: Tensor) -> list[Tensor]:
        """Return the one layer (B, K)."""
        width = self.width
        terms: list[Tensor] = []
        start = 0
        for second in range(1, self._num_fields):
            weight_WK = self.weight[start : start + second].flatten(0, 1)
            start += second
            partner_BK = x_BW[:, : second * width] @ weight_WK
            terms.append(partner_BK * x_BW[:, second * width : (second + 1) * width])
        return [torch.stack(terms).sum(0)]
