"""Which interaction an expert has."""

from dataclasses import dataclass, fields
from typing import Literal

InteractionKind = Literal["fm", "fwfm", "fmfm", "ffm", "ipnn", "flat", "dcnv2", "gwpfm"]

_OWNERS = {"layers": "dcnv2", "rank": "dcnv2", "diagonal": "fmfm", "raw": "ipnn"}


@dataclass(frozen=True, kw_only=True)
class InteractionConfig:
    """One interaction; a setting that its kind does not read must stay at its default."""

    kind: InteractionKind = "dcnv2"
    layers: int = 3
    """Cross layers of dcnv2."""
    rank: int = 0
    """Rank of dcnv2's matrices; 0 is full rank."""
    diagonal: bool = False
    """Whether fmfm's matrices are diagonal (its vectorised option)."""
    raw: bool = True
    """Whether ipnn passes the embeddings on beside their inner products."""

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"interaction.layers must be at least 1, got {self.layers}")
        if self.rank < 0:
            raise ValueError(f"interaction.rank must be 0 (full rank) or more, got {self.rank}")
        for field in fields(self):
            owner = _OWNERS.get(field.name, self.kind)
            if owner != self.kind and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"interaction.{field.name} is read by kind {owner} only, and kind is "
                    f"{self.kind}: remove it or set interaction.kind={owner}"
                )
