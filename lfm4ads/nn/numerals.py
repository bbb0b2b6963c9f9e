"""Multiple Numeral Systems Encoding (arXiv 2403.00793): integers that keep their order.

Dimension key: B rows, F features, K digits of one base, R table rows of one base, D width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lfm4ads.core.errors import UserError

NumeralMerge = Literal["concat", "sum"]


@dataclass(frozen=True)
class NumeralConfig:
    """In which numeral systems an integer is written, and how these are joined."""

    bases: tuple[int, ...] = (2, 3)
    merge: NumeralMerge = "concat"
    """Each base has its own columns, or all add up in the same; v1 of the paper adds them."""

    def __post_init__(self) -> None:
        if not self.bases:
            raise ValueError("bases must name at least one numeral system, as in bases=[2,3]")
        if min(self.bases) < 2:
            raise ValueError(f"bases must be at least 2, got {list(self.bases)}")
        if len(set(self.bases)) < len(self.bases):
            raise ValueError(f"bases must differ from one another, got {list(self.bases)}")


def num_digits(levels: int, *, base: int) -> int:
    """Return the least number of digits, at least 1, that writes every integer below ``levels``."""
    digits = 1
    while base**digits < levels:
        digits += 1
    return digits


def numeral_rows(values: Tensor, *, base: int, digits: int) -> Tensor:
    """Return the table rows (..., digits) of integers (...), least significant digit first.

    Digit k of a value has row base * k + digit: every position has rows of its own. Were they
    shared, all values with the same digits in another order (3 and 5 in base 2) would be one.
    """
    position_K = torch.arange(digits, device=values.device)
    digit_K = torch.div(values.unsqueeze(-1), base**position_K, rounding_mode="floor") % base
    return base * position_K + digit_K


class NumeralEncoder(nn.Module):
    """Turns integers in [0, levels) into the sum of their digits' rows, per base and feature.

    A missing value (below 0) has one row of its own. Nothing is checked here, since a quantiser
    gives no other levels: a value too large loses its high digits and reads no foreign row.
    """

    def __init__(self, features: int, *, levels: int, dim: int, config: NumeralConfig) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"levels must be at least 1, got {levels}")
        self.digits = {base: num_digits(levels, base=base) for base in config.bases}
        self._merge: NumeralMerge = config.merge
        width = _base_width(dim, config=config)
        self.weight = nn.ParameterDict(
            {
                # Sums of K rows then start with the spread 0.1 of other dense fields.
                _name(base): nn.Parameter(
                    torch.randn(features, base * digits + 1, width) * 0.1 / digits**0.5
                )
                for base, digits in self.digits.items()
            }
        )
        """Per base (F, R, D): the base * K rows of ``numeral_rows``, then the missing one."""

    def forward(self, levels_BF: Tensor) -> Tensor:
        """Return the embeddings (B, F, dim) of int64 levels (B, F); -1 is missing."""
        sums_FBD = [self._sum_rows(levels_BF.t(), base=base) for base in self.digits]
        match self._merge:
            case "concat":
                return torch.cat(sums_FBD, dim=-1).transpose(0, 1)
            case "sum":
                return torch.stack(sums_FBD).sum(dim=0).transpose(0, 1)

    def _sum_rows(self, levels_FB: Tensor, *, base: int) -> Tensor:
        """Multiply 0/1 rows with the tables, which are small.

        Forward and backward of 4,096 rows, 10 features, 1,024 levels, base 2, D = 8 on one CPU
        thread: 13 ms; index and sum 19 ms; embedding_bag 41 ms, for its gradient adds thousands
        of rows into the same few places.
        """
        weight_FRD = self.weight[_name(base)]
        features, missing = weight_FRD.shape[0], weight_FRD.shape[1] - 1
        rows_FBK = numeral_rows(levels_FB, base=base, digits=self.digits[base])
        rows_FBK = torch.where((levels_FB < 0).unsqueeze(-1), missing, rows_FBK)
        used_FBR = weight_FRD.new_zeros(features, levels_FB.shape[1], missing + 1)
        return torch.bmm(used_FBR.scatter_(2, rows_FBK, 1.0), weight_FRD)


def _name(base: int) -> str:
    return f"base{base}"


def _base_width(dim: int, *, config: NumeralConfig) -> int:
    if config.merge == "sum":
        return dim
    if dim % len(config.bases):
        raise UserError(
            f"a numeral embedding of width {dim} cannot be shared evenly by the"
            f" {len(config.bases)} bases {list(config.bases)}; take a multiple of"
            f" {len(config.bases)}, or merge=sum",
            everywhere=True,
        )
    return dim // len(config.bases)
