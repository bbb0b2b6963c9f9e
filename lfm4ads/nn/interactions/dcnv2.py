"""Cross network of DCNv2 (Wang et al., WWW 2021, Eq. 1).

Dimension key: B rows, W width, R rank.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from lfm4ads.core.errors import UserError
from lfm4ads.nn.aligned import spare_columns


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, full-rank or with W_l = U_l V_l^T (Eq. 2).

    Low rank has 2 W R weights a layer where full rank has W^2.
    """

    def __init__(self, width: int, *, layers: int, rank: int = 0) -> None:
        super().__init__()
        if rank >= width:
            raise UserError(
                f"a cross network of rank {rank} on {width} inputs is not low-rank: set rank "
                f"below {width}, or 0 for full rank",
                everywhere=True,
            )
        self.layers = nn.ModuleList(_cross_layer(width, rank=rank) for _ in range(layers))
        self.width = width
        self.layer_names = [f"cross_{position}" for position in range(1, layers + 1)]
        self.layer_dims = [width] * layers

    def forward(self, x0_BW: Tensor) -> list[Tensor]:
        """Return x_1 ... x_L, each (B, W)."""
        outputs: list[Tensor] = []
        spare = spare_columns(self.width)
        if spare:  # once for all layers
            x0_BW = F.pad(x0_BW, (0, spare))
        x_BW = x0_BW
        for layer in self.layers:
            x_BW = x0_BW * _mapped(layer, x_BW, spare=spare) + x_BW
            outputs.append(x_BW[:, : self.width])
        return outputs

    def first_weight(self) -> Tensor:
        """Return W_0 (W, W) without gradient, multiplied out where it is of low rank."""
        first = self.layers[0]
        parts = [one.weight.detach() for one in first.modules() if isinstance(one, nn.Linear)]
        return parts[0] if len(parts) == 1 else parts[1] @ parts[0]


def _mapped(layer: nn.Module, x_BW: Tensor, *, spare: int) -> Tensor:
    """Return W x + b, with zeros in the spare columns where x has them."""
    if not spare:
        return layer(x_BW)
    parts = [one for one in layer.modules() if isinstance(one, nn.Linear)]
    *before, last = parts
    for one in before:  # the factor V of low rank
        x_BW = F.linear(x_BW, F.pad(one.weight, (0, spare)))
    columns = 0 if before else spare
    return F.linear(x_BW, F.pad(last.weight, (0, columns, 0, spare)), F.pad(last.bias, (0, spare)))


def _cross_layer(width: int, *, rank: int) -> nn.Module:
    if not rank:
        return nn.Linear(width, width)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
