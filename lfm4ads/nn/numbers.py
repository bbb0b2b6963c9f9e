"""Number features as fields.

Dimension key: B rows, N numbers, D width of a field.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from lfm4ads.data.schema import Feature
from lfm4ads.nn.numerals import NumeralConfig, NumeralEncoder
from lfm4ads.nn.quantise import QuantiseKind, Quantiser

NumberKind = Literal["linear", "raw", QuantiseKind]


@dataclass(frozen=True, kw_only=True)
class NumberConfig:
    """How number features become fields."""

    kind: NumberKind = "linear"
    """linear: x * v + c. raw: x itself, a field of width 1 without parameters. The others quantise
    a number into levels, whose numerals in several bases have rows (MNSE): equal_frequency, log
    (bins of equal width in logs) or integer."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Kind of single features, by name."""
    dim: int = 8
    levels: int = 256
    """Levels a number is quantised into."""
    numerals: NumeralConfig = field(default_factory=NumeralConfig)

    def __post_init__(self) -> None:
        known = ("linear", "raw", *get_args(QuantiseKind))
        for name, kind in self.kinds.items():
            if kind not in known:
                raise ValueError(
                    f"number.kinds.{name} must be one of {', '.join(known)}, got {kind}"
                )

    def kind_of(self, name: str) -> NumberKind:
        """Return how one feature is encoded."""
        return cast(NumberKind, self.kinds.get(name, self.kind))


class LinearNumbers(nn.Module):
    """A number x becomes x * v + c with its own v and c; a missing one counts as the mean."""

    def __init__(self, features: int, *, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, dim))
        self.bias = nn.Parameter(torch.empty(features, dim))
        for parameter in (self.weight, self.bias):
            nn.init.normal_(parameter, std=0.1)

    def forward(self, numbers_BN: Tensor) -> Tensor:
        """Return (B, N * D)."""
        return (torch.nan_to_num(numbers_BN).unsqueeze(-1) * self.weight + self.bias).flatten(1)


class NumeralNumbers(nn.Module):
    """A number's level, written in several bases (arXiv 2403.00793, section 3.2)."""

    def __init__(
        self, features: Sequence[Feature], names: Sequence[str], *, config: NumberConfig
    ) -> None:
        super().__init__()
        self.names = list(names)
        self.quantiser = Quantiser(
            [one.mean for one in features],
            [one.std for one in features],
            [one.log for one in features],
            kinds=[cast(QuantiseKind, config.kind_of(name)) for name in names],
            levels=config.levels,
        )
        self.numerals = NumeralEncoder(
            len(features), levels=config.levels, dim=config.dim, config=config.numerals
        )

    def forward(self, numbers_BN: Tensor) -> Tensor:
        """Return (B, N * D)."""
        return self.numerals(self.quantiser(numbers_BN)).flatten(1)
