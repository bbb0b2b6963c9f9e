"""How frozen upstream representations enter a downstream model at feature level.

Dimension key: B rows, R width of all representations that enter, U and I widths of the user's and
the item's, E width of the downstream embeddings, H hidden width, T width at the top, N
representations, D width of a token, M tokens that are left.
"""

from collections.abc import Mapping
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


class SigmoidGate(nn.Module):
    """sigmoid(W r + b), the gate of LFM4Ads' public code; it halves the embeddings at start."""

    def __init__(self, width: int, *, embedding_width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, embedding_width)

    def forward(self, rep_BR: Tensor) -> Tensor:
        """Return factors (B, E)."""
        return torch.sigmoid(self.map(rep_BR))


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
        # A product needs both sides.
        self.user_match = nn.Linear(user, hidden, bias=False) if user and item else None
        self.item_match = nn.Linear(item, hidden, bias=False) if user and item else None
        joined = 2 * hidden if user and item else hidden
        self.gate = nn.Linear(joined, embedding_width)
        self.top = nn.Linear(joined, top)
        self._dropout = dropout
        for layer in (self.gate, self.top):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, user_BU: Tensor, item_BI: Tensor) -> Adapted:
        """Return the gate (B, E) and the top term (B, T) for representations of both sides."""
        parts = [F.relu(self.inner(torch.cat([user_BU, item_BI], dim=1)))]
        if self.user_match is not None and self.item_match is not None:
            parts.append(self.user_match(user_BU) * self.item_match(item_BI))
        hidden_BH = F.dropout(torch.cat(parts, dim=1), self._dropout, training=self.training)
        return Adapted(2 * torch.sigmoid(self.gate(hidden_BH)), self.top(hidden_BH))


class TokenAdapter(nn.Module):
    """A token per representation by a map shared by all of one width, then M mixes of the tokens.

    For vectors made of separately normalised blocks: an absent block is masked after its map, so
    that the map's bias does not stand for it, and the mixes are normalised (as UniDot, arXiv
    2608.16797, reads such a vector).
    """

    def __init__(self, dims: Mapping[str, int], *, token_dim: int, num_tokens: int) -> None:
        super().__init__()
        self._dims = dict(dims)
        widths = sorted(set(dims.values()))
        self.maps = nn.ModuleDict({str(width): nn.Linear(width, token_dim) for width in widths})
        self.mix = nn.Linear(len(dims), num_tokens, bias=False)
        self.norm = nn.LayerNorm(token_dim)
        self.width = num_tokens * token_dim

    def forward(self, reps: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return M tokens side by side (B, M D) from representations (B, .) and presence (B,)."""
        tokens = [
            self.maps[str(width)](reps[name]) * present[name].unsqueeze(1)
            for name, width in self._dims.items()
        ]
        mixed_BDM = self.mix(torch.stack(tokens, dim=2))
        return self.norm(mixed_BDM.transpose(1, 2)).flatten(1)
