"""Inner product network.

Dimension key: B rows, N fields, K width of a field, W = N K, P pairs of fields.
"""

import torch
from torch import Tensor, nn

from lfm4ads.nn.interactions.layout import FieldLayout, pair_indices


class Ipnn(nn.Module):
    """The P inner products <v_i, v_j>, i < j, kept apart; before them the fields if ``raw``.

    Qu et al., ICDM 2016. The largest tensor is (B, N, N), or the output.
    """

    _pair: Tensor

    def __init__(self, layout: FieldLayout, *, raw: bool) -> None:
        super().__init__()
        dim = layout.equal_dim("ipnn")
        self._shape = (layout.num_fields, dim)
        self._raw = raw
        self.width = layout.num_pairs + (layout.width if raw else 0)
        self.layer_names = ["ipnn"]
        self.layer_dims = [self.width]
        first_P, second_P = pair_indices(layout.num_fields)
        self.register_buffer("_pair", second_P * layout.num_fields + first_P, persistent=False)

    def forward(self, x_BW: Tensor) -> list[Tensor]:
        """Return the one layer (B, P) or, with the fields first, (B, W + P)."""
        x_BNK = x_BW.unflatten(1, self._shape)
        product_BP = (x_BNK @ x_BNK.mT).flatten(1).index_select(1, self._pair)
        return [torch.cat([x_BW, product_BP], dim=1) if self._raw else product_BP]
