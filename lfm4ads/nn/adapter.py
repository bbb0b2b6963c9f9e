"""How a frozen upstream representation enters a downstream model at feature level.

Dimension key: B rows, R width of the representations, E width of the downstream embeddings, H hidden width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def normalise(rep_BR: Tensor, present_B: Tensor) -> Tensor:
    """Return the layer-normalised representation (B, R), exactly zero where it is absent."""
    return F.layer_norm(rep_BR, rep_BR.shape[1:]) * present_B.unsqueeze(1)


@dataclass
class Adapted:
    """What an adapter gives the downstream network."""

    gate_BE: Tensor
    """Factor on the embeddings."""
    top_BH: Tensor
    """Term added to the last hidden layer."""


class NonLinearAdapter(nn.Module):
    """gate = 2 sigmoid(W2 relu(W1 r)) on the embeddings and a term P relu(W1 r) at the top; W2 = P = 0 at start.

    So the adapter is the identity before training and vanilla's logits are its starting point. The public code of
    LFM4Ads gates with sigmoid(W r + b), which halves the embeddings at start; the top term lets a representation
    matter even where the embeddings it would gate are untrained.
    """

    def __init__(
        self, width: int, *, embedding_width: int, hidden: int, top: int, dropout: float
    ) -> None:
        super().__init__()
        self.inner = nn.Linear(width, hidden)
        self.gate = nn.Linear(hidden, embedding_width)
        self.top = nn.Linear(hidden, top)
        self._dropout = dropout
        for layer in (self.gate, self.top):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, rep_BR: Tensor) -> Adapted:
        """Return the gate (B, E) and the top term (B, H) for representations (B, R)."""
        hidden_BH = F.dropout(F.relu(self.inner(rep_BR)), self._dropout, training=self.training)
        return Adapted(2 * torch.sigmoid(self.gate(hidden_BH)), self.top(hidden_BH))
