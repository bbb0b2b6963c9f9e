"""One side of the foundation model: its fields, and the representation made of them.

Dimension key: B rows, W width of the fields, U width of the representation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lfm4ads.nn.mlp import Mlp


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """How a side's fields become its representation."""

    hidden: tuple[int, ...] = (128,)
    rep_dim: int = 32
    """Width of UR and of IR, in each table set; 0: the identity, so that the fields themselves are
    the representation (the public code of LFM4Ads) and interactions are between fields."""
    token_dim: int = 0
    """Width of the pieces of a representation that interactions treat as fields; 0: one piece."""

    def __post_init__(self) -> None:
        if self.rep_dim < 0 or self.token_dim < 0:
            raise ValueError("tower.rep_dim and tower.token_dim must not be negative")
        if self.token_dim and not self.rep_dim:
            raise ValueError(
                "tower.token_dim cuts a representation; it needs tower.rep_dim above 0"
            )
        if self.token_dim and self.rep_dim % self.token_dim:
            raise ValueError(
                f"tower.rep_dim must be a multiple of tower.token_dim, got {self.rep_dim} and"
                f" {self.token_dim}"
            )


class Tower(nn.Module):
    """An MLP over a side's fields, or the identity. ``dims`` are the widths of its tokens."""

    def __init__(
        self,
        names: Sequence[str],
        dims: Sequence[int],
        *,
        side: str,
        config: TowerConfig,
        dropout: float,
    ) -> None:
        super().__init__()
        if config.rep_dim:
            hidden = (*config.hidden, config.rep_dim)
            self.mlp = Mlp(sum(dims), hidden, dropout=dropout)
            size = config.token_dim or config.rep_dim
            count = config.rep_dim // size
            self.names = [f"{side}_{place}" for place in range(count)]
            self.dims = [size] * count
        else:
            self.mlp = None
            self.names, self.dims = list(names), list(dims)
        self.width = sum(self.dims)

    def forward(self, x_BW: Tensor) -> Tensor:
        """Return the representation (B, U)."""
        return x_BW if self.mlp is None else self.mlp(x_BW)[-1]
