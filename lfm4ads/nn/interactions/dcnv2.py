"""Cross network of DCNv2 (Wang et al., WWW 2021, Eq. 1).

Dimension key: B rows, W width, R rank.
"""

from torch import Tensor, nn

from lfm4ads.core.errors import UserError


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
        x_BW = x0_BW
        for layer in self.layers:
            x_BW = x0_BW * layer(x_BW) + x_BW
            outputs.append(x_BW)
        return outputs

    def first_weight(self) -> Tensor:
        """Return W_0 (W, W) without gradient, multiplied out where it is of low rank."""
        first = self.layers[0]
        parts = [one.weight.detach() for one in first.modules() if isinstance(one, nn.Linear)]
        return parts[0] if len(parts) == 1 else parts[1] @ parts[0]


def _cross_layer(width: int, *, rank: int) -> nn.Module:
    if not rank:
        return nn.Linear(width, width)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
