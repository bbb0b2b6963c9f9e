"""Field-aware factorisation machine.

Dimension key: B rows, N fields, K = (N - 1) D width of a field, W = N K, D width of a vector,
P pairs of fields.
"""

from torch import Tensor, nn

from lfm4ads.core.errors import UserError
from lfm4ads.nn.interactions.layout import FieldLayout, pair_indices


class Ffm(nn.Module):
    """sum_{i<j} v_{i->j} * v_{j->i} (B, D): a field has a vector for each other field.

    Juan et al., RecSys 2016, in vector form: the sum of the components is the paper's score. A
    field's vectors stand in the order of the fields, itself left out. The largest tensors are the
    two sides of all pairs, (B, P, D) each: together the input in another order.
    """

    _first: Tensor
    _second: Tensor

    def __init__(self, layout: FieldLayout) -> None:
        super().__init__()
        dim = layout.equal_dim("ffm")
        others = layout.num_fields - 1
        if dim % others:
            raise UserError(
                f"interaction ffm gives every field one vector for each of the {others} others, "
                f"and {others} does not divide the fields' width {dim}: set the dim of the table "
                f"set, fields.number.dim and fields.vector.dim to a multiple of {others}",
                everywhere=True,
            )
        self.width = dim // others
        self.layer_names = ["ffm"]
        self.layer_dims = [self.width]
        first_P, second_P = pair_indices(layout.num_fields)
        # The first meets the second in slot second - 1, since it leaves itself out.
        self.register_buffer("_first", first_P * others + second_P - 1, persistent=False)
        self.register_buffer("_second", second_P * others + first_P, persistent=False)

    def forward(self, x_BW: Tensor) -> list[Tensor]:
        """Return the one layer (B, D)."""
        vectors_BVD = x_BW.unflatten(
            1, (-1, self.width)
        )  # V = 2 P, a vector for every ordered pair
        # A gather: slices of each field in turn, without a copy, took twice as long.
        first_BPD = vectors_BVD.index_select(1, self._first)
        return [(first_BPD * vectors_BVD.index_select(1, self._second)).sum(1)]
