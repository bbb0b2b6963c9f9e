"""Which fields stand side by side in the vector an interaction reads.

Dimension key: N fields, P pairs of fields.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lfm4ads.core.errors import UserError


@dataclass(frozen=True)
class FieldLayout:
    """The fields of one table set in the order they are concatenated."""

    names: tuple[str, ...]
    dims: tuple[int, ...]
    """Width of each field, in numbers."""
    groups: tuple[int, ...]
    """Group of each field: GwPFM keeps a part of every field for each group that has a field."""

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.dims) == len(self.groups):
            raise ValueError(
                f"a layout needs a dim and a group for each of its {len(self.names)} fields, "
                f"got {len(self.dims)} dims and {len(self.groups)} groups"
            )

    @property
    def width(self) -> int:
        """Width of all fields side by side."""
        return sum(self.dims)

    @property
    def num_fields(self) -> int:
        """Number of fields, N."""
        return len(self.names)

    @property
    def num_pairs(self) -> int:
        """Number of pairs of two different fields, N (N - 1) / 2."""
        return self.num_fields * (self.num_fields - 1) // 2

    def equal_dim(self, what: str) -> int:
        """Return the one width of all fields, for the interaction ``what`` that multiplies pairs.

        Raises:
            UserError: There is no pair, or two fields differ in width.
        """
        if self.num_fields < 2:
            names = ", ".join(self.names) or "none"
            raise UserError(
                f"interaction {what} multiplies pairs of fields and its table set has fewer than "
                f"two ({names}): give the model more features or take interaction flat or dcnv2",
                everywhere=True,
            )
        for name, dim in zip(self.names, self.dims, strict=True):
            if dim != self.dims[0]:
                raise UserError(
                    f"interaction {what} needs fields of equal width, but {self.names[0]} has "
                    f"{self.dims[0]} and {name} has {dim}: give the table set one dim, and "
                    f"fields.number.dim and fields.vector.dim the same, or take flat or dcnv2",
                    everywhere=True,
                )
        return self.dims[0]


def pair_indices(num_fields: int) -> tuple[Tensor, Tensor]:
    """Return the first and the second field (P,) of every pair: (0,1), (0,2), (1,2), (0,3), ...

    Pairs with the same second field are neighbours, so their weights are one slice.
    """
    second_P, first_P = torch.tril_indices(num_fields, num_fields, offset=-1)
    return first_P, second_P
