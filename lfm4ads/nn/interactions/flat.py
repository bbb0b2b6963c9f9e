"""No explicit interaction: the expert's MLP reads the fields side by side.

Dimension key: B rows, W width of all fields.
"""

from torch import Tensor, nn

from lfm4ads.nn.interactions.layout import FieldLayout


class Flat(nn.Module):
    """FlatDNN's input: the identity."""

    def __init__(self, layout: FieldLayout) -> None:
        super().__init__()
        self.width = layout.width
        self.layer_names = ["flat"]
        self.layer_dims = [self.width]

    def forward(self, x_BW: Tensor) -> list[Tensor]:
        """Return the fields (B, W) as the one layer."""
        return [x_BW]
