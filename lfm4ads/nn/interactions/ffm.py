"""Field-aware factorisation machine.

Dimension key: B rows, N fields, K = (N - 1) D width of a field, W = N K, D width of a vector.
"""

import torch
from torch import Tensor, nn

from lfm4ads.core.errors import UserError
from lfm4ads.nn.interactions.layout import FieldLayout


class Ffm(nn.Module):
    """sum_{i<j} v_{i->j} * v_{j->i} (B, D): a field has a vector for each other field.

    Juan et al., RecSys 2016, in vector form: the sum of the components is the paper's score. A
    field's vectors stand in the order of the fields, itself left out. The forward pass reads views
    of the input and keeps no copy of it; its largest new tensor is (B, N - 1, D).
    """

    def __init__(self, layout: FieldLayout) -> None:
        super().__init__()
        dim = layout.equal_dim("ffm")
        self._num_fields = layout.num_fields
        others = self._num_fields - 1
        if dim % others:
            raise UserError(
                f"interaction ffm gives every field one vector for each of the {others} others, "
                f"and {others} does not divide the fields' width {dim}: set the dim of the table "
                f"set, number_dim and vector_dim to a multiple of {others}",
                everywhere=True,
            )
        self.width = dim // others
        self.layer_names = ["ffm"]
        self.layer_dims = [self.width]

    def forward(self, x_BW: Tensor) -> list[Tensor]:
        """Return the one layer (B, D)."""
        x_BNND = x_BW.unflatten(1, (self._num_fields, self._num_fields - 1, self.width))
        # unbind, whose backward pass is one stack, where slices would each fill a whole gradient.
        own, slots = x_BNND.unbind(1), x_BNND.unbind(2)
        # A field before `second` meets it in slot second - 1: it leaves itself out.
        terms = [
            (own[second][:, :second] * slots[second - 1][:, :second]).sum(1)
            for second in range(1, self._num_fields)
        ]
        return [torch.stack(terms).sum(0)]
