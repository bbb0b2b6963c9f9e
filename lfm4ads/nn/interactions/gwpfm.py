"""Group-wise part-aware factorisation machine.

Dimension key: B rows, N fields, G groups of fields, K = G D width of a field, W = N K, D width of
a part, P pairs of groups.
"""

import torch
from torch import Tensor, nn

from lfm4ads.core.errors import UserError
from lfm4ads.nn.interactions.layout import FieldLayout, pair_indices


class GwPfm(nn.Module):
    """sum_{i<j} r_{g(i) g(j)} v_{i,g(j)} * v_{j,g(i)} (B, D): a field has a part for each group.

    arXiv 2403.00793, section 3.2. Between the FwFM (one group) and the FFM (a group a field). The
    parts of a field stand in the order of the groups; groups without a field have none.

    With S_ab the sum over the fields of group a of their parts for b, the sum over pairs is
    sum_{a<b} r_ab S_ab * S_ba + 1/2 sum_a r_aa (S_aa^2 - sum_{i in a} v_{i,a}^2): O(B N G D) where
    the definition takes O(B N^2 D), and no tensor above the input's size. The symmetric r start at
    1, as the FM has them; ``weight`` holds r_aa of every group, then r_ab of every pair of groups
    as ``pair_indices`` orders them.
    """

    _group: Tensor
    _field: Tensor
    _first: Tensor
    _second: Tensor

    def __init__(self, layout: FieldLayout) -> None:
        super().__init__()
        dim = layout.equal_dim("gwpfm")
        groups = sorted(set(layout.groups))
        if dim % len(groups):
            raise UserError(
                f"interaction gwpfm gives every field one part for each of the {len(groups)} "
                f"groups, and {len(groups)} does not divide the fields' width {dim}: set the dim "
                f"of the table set, fields.number.dim and fields.vector.dim to a multiple of "
                f"{len(groups)}",
                everywhere=True,
            )
        self.width = dim // len(groups)
        self._num_groups = len(groups)
        self.layer_names = ["gwpfm"]
        self.layer_dims = [self.width]
        group_N = torch.tensor([groups.index(group) for group in layout.groups])
        self.register_buffer("_group", group_N, persistent=False)
        self.register_buffer("_field", torch.arange(layout.num_fields), persistent=False)
        first_P, second_P = pair_indices(len(groups))
        self.register_buffer("_first", first_P, persistent=False)
        self.register_buffer("_second", second_P, persistent=False)
        self.weight = nn.Parameter(torch.ones(len(groups) + len(first_P)))

    def forward(self, x_BW: Tensor) -> list[Tensor]:
        """Return the one layer (B, D)."""
        groups = self._num_groups
        x_BNGD = x_BW.unflatten(1, (-1, groups, self.width))
        zeros_BGGD = x_BNGD.new_zeros(len(x_BNGD), groups, groups, self.width)
        sum_BGGD = zeros_BGGD.index_add(1, self._group, x_BNGD)
        own_BND = x_BNGD[:, self._field, self._group]
        square_BGD = zeros_BGGD[:, 0].index_add(1, self._group, own_BND.square())
        # Halved group by group, not after the sum over groups: a group of one field has no pair,
        # and this way it gets exactly zero, where Adam would make steps of a rounding error.
        within_BGD = (sum_BGGD.diagonal(dim1=1, dim2=2).mT.square() - square_BGD) / 2
        across_BPD = sum_BGGD[:, self._first, self._second] * sum_BGGD[:, self._second, self._first]
        met_BGPD = torch.cat([within_BGD, across_BPD], dim=1)
        return [torch.einsum("p,bpd->bd", self.weight, met_BGPD)]
