"""Similarity Encoding Embedding (arXiv 2403.00793): vectors of another model.

Dimension key: B rows, V length of the external vectors, D width of the embedding.
"""

import torch
from torch import Tensor, nn

from lfm4ads.nn.numerals import NumeralConfig, NumeralEncoder

_DEFAULT = NumeralConfig()
_SLACK = 1e-4
"""Of a level. Equal vectors may have cosine 1 - 1e-16 and must not miss the top level for that;
rounding the vectors to float32 moves a cosine by half of this, at 1,024 levels."""


def similarity_levels(user_BV: Tensor, item_BV: Tensor, *, levels: int) -> Tensor:
    """Return floor((cosine + 1) / 2 * (levels - 1)) (B,) int64; -1 where either is missing.

    A vector with a NaN is missing; so is a zero vector, which has no direction. The quantiser is
    ours, the paper does not give its own.
    """
    user_BV, item_BV = user_BV.detach().double(), item_BV.detach().double()
    dot_B = (user_BV * item_BV).sum(dim=1)
    cosine_B = dot_B / (user_BV.norm(dim=1) * item_BV.norm(dim=1))
    place_B = (cosine_B.clamp(-1, 1) + 1) / 2 * (levels - 1)
    level_B = (place_B + _SLACK).floor().nan_to_num(nan=-1.0)
    return level_B.to(torch.int64)


class SimilarityEncoder(nn.Module):
    """Embeds how near a user's and an item's external vectors are, not the vectors themselves.

    Their space is not that of the ids; their cosine says the same in both. The vectors get no
    gradient.
    """

    def __init__(self, dim: int, *, levels: int = 1024, config: NumeralConfig = _DEFAULT) -> None:
        super().__init__()
        self.levels = levels
        self.numerals = NumeralEncoder(1, levels=levels, dim=dim, config=config)

    def forward(self, user_BV: Tensor, item_BV: Tensor) -> Tensor:
        """Return the embedding (B, dim) of two vectors (B, V)."""
        level_B = similarity_levels(user_BV, item_BV, levels=self.levels)
        return self.numerals(level_B.unsqueeze(1)).squeeze(1)
