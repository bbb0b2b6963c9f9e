"""Cross network of DCNv2 (Wang et al., WWW 2021, Eq. 1).

Dimension key: B rows, W width.
"""

from torch import Tensor, nn


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, full-rank."""

    def __init__(self, width: int, *, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x0_BW: Tensor) -> list[Tensor]:
        """Return x_1 ... x_L, each (B, W)."""
        outputs: list[Tensor] = []
        x_BW = x0_BW
        for layer in self.layers:
            x_BW = x0_BW * layer(x_BW) + x_BW
            outputs.append(x_BW)
        return outputs
