"""How frozen upstream representations enter a downstream model at feature level.

Dimension key: B rows, U and I widths of the user's and the item's representations, E width of the
downstream embeddings, H hidden width, T width at the top.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Adapted:
    """What an adapter gives the downstream network."""

    gate_BE: Tensor
    """Factor on the embeddings."""
    top_BT: Tensor
    """Term added to the last hidden layer."""


class NonLinearAdapter(nn.Module):
    """h = relu(A [u; i] + a) and (B u) * (C i); gate 2 sigmoid(W h); term P h at the top.

    W = P = 0 at start, so the adapter begins as the identity and vanilla's logits are its starting
    point. The public code of LFM4Ads gates with sigmoid(W r + b), which halves the embeddings at
    start. The product lets user and item representations match each other, and the top term lets
    them matter even where the embeddings they would gate are untrained; both are ours.
    """

    def __init__(
        self, user: int, item: int, *, embedding_width: int, hidden: int, top: int, dropout: float
    ) -> None:
        super().__init__()
        self.inner = nn.Linear(user + item, hidden)
        self.user_match = nn.Linear(user, hidden, bias=False)
        self.item_match = nn.Linear(item, hidden, bias=False)
        self.gate = nn.Linear(2 * hidden, embedding_width)
        self.top = nn.Linear(2 * hidden, top)
        self._dropout = dropout
        for layer in (self.gate, self.top):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, user_BU: Tensor, item_BI: Tensor) -> Adapted:
        """Return the gate (B, E) and the top term (B, T) for representations of both sides."""
        joint_BH = F.relu(self.inner(torch.cat([user_BU, item_BI], dim=1)))
        match_BH = self.user_match(user_BU) * self.item_match(item_BI)
        hidden_B2H = torch.cat([joint_BH, match_BH], dim=1)
        hidden_B2H = F.dropout(hidden_B2H, self._dropout, training=self.training)
        return Adapted(2 * torch.sigmoid(self.gate(hidden_B2H)), self.top(hidden_B2H))
