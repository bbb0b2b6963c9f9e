"""Factorisation machines with nothing, a scalar or a matrix between two fields.

All in vector form: the sum over pairs of an element-wise product, so that an MLP can follow; the
sum of its components is the scalar score of the papers (section 3.2 of arXiv 2403.00793 names
them).

Dimension key: B rows, N fields, K width of a field, W = N K, P pairs of fields.
"""

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


class FwFm(nn.Module):
    """sum_{i<j} r_ij v_i * v_j (B, K), one scalar a pair (Pan et al., WWW 2018).

    Scalars start at 1: the FM is the starting point, and a pair's scalar leaves it only as far as
    the data pull. O(B N^2 K) multiplications; the largest tensor is the input's size.
    """

    _first: Tensor
    _second: Tensor

    def __init__(self, layout: FieldLayout) -> None:
        super().__init__()
        self.width = layout.equal_dim("fwfm")
        self._num_fields = layout.num_fields
        self.layer_names = ["fwfm"]
        self.layer_dims = [self.width]
        self.weight = nn.Parameter(torch.ones(layout.num_pairs))
        first_P, second_P = pair_indices(layout.num_fields)
        self.register_buffer("_first", first_P, persistent=False)
        self.register_buffer("_second", second_P, persistent=False)

    def forward(self, x_BW: Tensor) -> list[Tensor]:
        """Return the one layer (B, K)."""
        x_BNK = x_BW.unflatten(1, (self._num_fields, self.width))
        # One triangle of the symmetric weights meets every pair once: no half, no diagonal.
        weight_NN = self.weight.new_zeros(self._num_fields, self._num_fields)
        weight_NN[self._second, self._first] = self.weight
        partner_BNK = torch.einsum("ji,bik->bjk", weight_NN, x_BNK)
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


class DiagonalFmFm(nn.Module):
    """FmFM whose matrices are diagonal: sum_{i<j} m_ij * v_i * v_j (B, K), a vector a pair.

    The "vectorised" option of the paper. Vectors start at 1, as the identity of ``FmFm``.
    """

    _first: Tensor
    _second: Tensor

    def __init__(self, layout: FieldLayout) -> None:
        super().__init__()
        self.width = layout.equal_dim("fmfm")
        self._num_fields = layout.num_fields
        self.layer_names = ["fmfm"]
        self.layer_dims = [self.width]
        self.weight = nn.Parameter(torch.ones(layout.num_pairs, self.width))
        first_P, second_P = pair_indices(layout.num_fields)
        self.register_buffer("_first", first_P, persistent=False)
        self.register_buffer("_second", second_P, persistent=False)

    def forward(self, x_BW: Tensor) -> list[Tensor]:
        """Return the one layer (B, K)."""
        x_BNK = x_BW.unflatten(1, (self._num_fields, self.width))
        weight_NNK = self.weight.new_zeros(self._num_fields, self._num_fields, self.width)
        weight_NNK[self._second, self._first] = self.weight
        partner_BNK = torch.einsum("jik,bik->bjk", weight_NNK, x_BNK)
        return [(x_BNK * partner_BNK).sum(1)]
