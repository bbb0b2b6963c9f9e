"""The part of the foundation model that sees user and item together.

Dimension key: B rows, W width of the tower input, H hidden width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lfm4ads.nn.interactions.dcnv2 import CrossNetwork
from lfm4ads.nn.mlp import Mlp


class MixTower(nn.Module):
    """Cross layers shared by all domains, then an MLP per domain (arXiv 2508.14948, section 3).

    Its input is made of UR and IR and nothing else, so stored UR and IR suffice to run it
    downstream.
    """

    def __init__(
        self,
        width: int,
        *,
        cross_layers: int,
        hidden: Sequence[int],
        domains: Sequence[str],
        dropout: float,
    ) -> None:
        super().__init__()
        self.cross = CrossNetwork(width, layers=cross_layers)
        self.branches = nn.ModuleDict(
            {name: Mlp(width, hidden, dropout=dropout) for name in domains}
        )
        self._domains = list(domains)
        self._hidden = list(hidden)
        self.width = self._hidden[-1]

    def forward(self, x0_BW: Tensor, domain_B: Tensor) -> dict[str, Tensor]:
        """Return every layer by name: towers, cross_1.., mlp_1.. (pre-activation, own branch).

        Rows are routed: a branch computes only its domain's rows, and no gradient of one domain
        reaches another's MLP.
        """
        layers = {"towers": x0_BW}
        crossed = self.cross(x0_BW)
        layers |= {f"cross_{position}": x_BW for position, x_BW in enumerate(crossed, 1)}
        x_BW = crossed[-1] if crossed else x0_BW
        rows = [torch.nonzero(domain_B == index).squeeze(1) for index in range(len(self._domains))]
        routed = [
            self.branches[name](x_BW[index])
            for name, index in zip(self._domains, rows, strict=True)
        ]
        order = torch.argsort(torch.cat(rows))
        for position in range(len(self._hidden)):
            stacked = torch.cat([outputs[position] for outputs in routed])
            layers[f"mlp_{position + 1}"] = stacked[order]
        return layers


def tower_input(ur_BU: Tensor, ir_BU: Tensor) -> Tensor:
    """Return [UR ; IR ; UR * IR] (B, 3 U); the product is FM's, which crosses learn slowly."""
    return torch.cat([ur_BU, ir_BU, ur_BU * ir_BU], dim=1)


def layer_names(*, cross_layers: int, mlp_layers: int) -> list[str]:
    """Return the names of the mix tower's layers, input to output."""
    crosses = [f"cross_{position}" for position in range(1, cross_layers + 1)]
    return ["towers", *crosses, *(f"mlp_{position}" for position in range(1, mlp_layers + 1))]
