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


@dataclass(frozen=True, kw_only=True)
class NumberConfig:
    """How number features become fields."""

    encoding: Literal["linear", "numerals"] = "linear"
    """linear: x * v + c; numerals: Multiple Numeral Systems Encoding of the quantised value."""
    dim: int = 8
    levels: int = 256
    """Levels a value is quantised into."""
    quantise: dict[str, str] = field(default_factory=dict)
    """Quantiser of single features: equal_frequency (otherwise), log or integer."""
    numerals: NumeralConfig = field(default_factory=NumeralConfig)

    def __post_init__(self) -> None:
        if self.quantise and self.encoding != "numerals":
            raise ValueError("number.quantise is read by number.encoding=numerals alone")
        for name, kind in self.quantise.items():
            if kind not in get_args(QuantiseKind):
                raise ValueError(
                    f"number.quantise.{name} must be one of {', '.join(get_args(QuantiseKind))},"
                    f" got {kind}"
                )


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
            kinds=[
                cast(QuantiseKind, config.quantise.get(name, "equal_frequency")) for name in names
            ],
            levels=config.levels,
        )
        self.numerals = NumeralEncoder(
            len(features), levels=config.levels, dim=config.dim, config=config.numerals
        )

    def forward(self, numbers_BN: Tensor) -> Tensor:
        """Return (B, N * D)."""
        return self.numerals(self.quantiser(numbers_BN)).flatten(1)
