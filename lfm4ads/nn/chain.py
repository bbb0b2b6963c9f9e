"""AITM: what a task knows goes on to the next one, by attention (arXiv 2105.08489).

Dimension key: B rows, S streams, H width.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Chain(nn.Module):
    """z_t = sum_u softmax_u(k(u) . q(u) / sqrt(H)) v(u) over u in {g(z_{t-1}), x_t}, Eq. 5 to 7.

    The first task of the chain, and tasks that are not in it, keep their x_t. The calibrator, which
    punishes a later task for being likelier than the one before, is left out, as in STEM's code.
    """

    def __init__(self, width: int, *, streams: Sequence[str], order: Sequence[str]) -> None:
        super().__init__()
        self._streams = list(streams)
        self._steps = list(pairwise(order))
        self.passes = nn.ModuleDict({task: nn.Linear(width, width) for _, task in self._steps})
        self.keys, self.queries, self.values = (
            nn.ModuleDict({task: nn.Linear(width, width, bias=False) for _, task in self._steps})
            for _ in range(3)
        )

    def forward(self, x_BSH: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors (B, S, H), and how later tasks weigh what they are told and own.

        The weights are (B, order - 1, 2).
        """
        z = dict(zip(self._streams, x_BSH.unbind(1), strict=True))
        shares: list[Tensor] = []
        for before, task in self._steps:
            told_BH = F.relu(self.passes[task](z[before]))
            u_B2H = torch.stack([told_BH, z[task]], dim=1)
            score_B2 = (self.keys[task](u_B2H) * self.queries[task](u_B2H)).sum(2)
            share_B2 = F.softmax(score_B2 * x_BSH.shape[2] ** -0.5, dim=1)
            z[task] = (share_B2.unsqueeze(2) * self.values[task](u_B2H)).sum(1)
            shares.append(share_B2)
        return torch.stack([z[one] for one in self._streams], dim=1), torch.stack(shares, dim=1)
