"""Temporal Interest Module: what a history says of a target, by content and by time.

From Zhou et al., "Temporal Interest Network", WWW 2024 (arXiv 2308.08487): target-aware temporal
encoding, attention and representation.

Dimension key: B rows, L history length, D width, H heads, W width of a head, R rows of a table.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class TemporalConfig:
    """Which times a history is encoded with, and how many heads look at it."""

    positions: bool = True
    """Encode how many behaviours ago: the most recent is 1, the target 0."""
    gaps: bool = True
    """Encode how long ago, in buckets that double."""
    heads: int = 1
    """1 is the paper's formula without projections."""
    gap_buckets: int = 32
    """Bucket 0 is the target; the last holds all that is older: with 32, than 34 years."""

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise ValueError(f"temporal.heads must be at least 1, got {self.heads}")
        if self.gap_buckets < 2:
            raise ValueError(
                "temporal.gap_buckets must be at least 2 (one is the target's), got"
                f" {self.gap_buckets}"
            )


class TemporalInterest(nn.Module):
    """sum_i a_i (e_i + p_i) * (v + p_0) with a = softmax_i(<e_i + p_i, v + p_0> / sqrt(D)).

    p is the sum of a position's and a gap's row, of tables that behaviours and target share. With
    several heads, queries, keys and values are projected, the value times the query is mixed, and
    the heads are concatenated; a head's scores are over sqrt(D / heads).

    The product with the target does not depend on i, so it is taken after the sum. In the same way
    no encoded or projected history is ever made: <e + p, q> = <e, q> + <p, q>, a projection moves
    from the history to the query and the mix. Apart from the history itself, memory is
    B x heads x (L + R).
    """

    def __init__(self, dim: int, *, max_length: int, config: TemporalConfig) -> None:
        super().__init__()
        if dim % config.heads:
            raise ValueError(
                f"temporal.heads must divide the embedding width {dim}, got {config.heads}"
            )
        self.positions = _time_table(max_length + 1, dim) if config.positions else None
        self.gaps = _time_table(config.gap_buckets, dim) if config.gaps else None
        projected = config.heads > 1
        self.query = nn.Linear(dim, dim, bias=False) if projected else None
        self.key = nn.Linear(dim, dim, bias=False) if projected else None
        self.value = nn.Linear(dim, dim, bias=False) if projected else None
        self._heads = config.heads
        self._max_length = max_length
        self._scale = (dim // config.heads) ** -0.5
        self.dim = dim
        """Width of a behaviour, of the target and of the output."""

    def forward(
        self, events_BLD: Tensor, lengths_B: Tensor, target_BD: Tensor, ages_BL: Tensor | None
    ) -> Tensor:
        """Return (B, D), exactly zero where the history is empty.

        Args:
            events_BLD: Embeddings of the behaviours, oldest first, left-aligned; finite padding.
            lengths_B: Behaviours of each row, int64.
            target_BD: Embedding of what the row asks about, from the same table as the events.
            ages_BL: Seconds from behaviour to request; read only if the config encodes gaps.
        """
        codes = self._codes(events_BLD.shape[1], lengths_B, ages_BL)
        for table_RD, _ in codes:
            target_BD = target_BD + table_RD[0]
        query_BHW = _split(target_BD, self.query, heads=self._heads)
        probe_BHD = _through(query_BHW, self.key)

        score_BHL = probe_BHD @ events_BLD.transpose(1, 2)
        for table_RD, index_BHL in codes:
            score_BHL = score_BHL + (probe_BHD @ table_RD.t()).gather(2, index_BHL)
        weight_BHL = _masked_softmax(score_BHL * self._scale, lengths_B)

        mix_BHD = weight_BHL @ events_BLD
        for table_RD, index_BHL in codes:
            share_BHR = weight_BHL.new_zeros(*weight_BHL.shape[:2], len(table_RD))
            mix_BHD = mix_BHD + share_BHR.scatter_add(2, index_BHL, weight_BHL) @ table_RD
        return (_onto(mix_BHD, self.value) * query_BHW).flatten(1)

    def _codes(
        self, length: int, lengths_B: Tensor, ages_BL: Tensor | None
    ) -> list[tuple[Tensor, Tensor]]:
        """Return each time table (R, D) with the row (B, H, L) of every behaviour."""
        codes: list[tuple[Tensor, Tensor]] = []
        if self.positions is not None:
            if length > self._max_length:
                raise ValueError(
                    f"a history of {length} behaviours exceeds max_length {self._max_length}"
                )
            place_L = torch.arange(length, device=lengths_B.device)
            codes.append((self.positions, (lengths_B[:, None] - place_L).clamp(min=0)))
        if self.gaps is not None:
            if ages_BL is None:
                raise ValueError("gaps are encoded, so the ages of the behaviours are needed")
            codes.append((self.gaps, gap_bucket(ages_BL, buckets=len(self.gaps))))
        return [(table, row[:, None].expand(-1, self._heads, -1)) for table, row in codes]


def gap_bucket(seconds: Tensor, *, buckets: int) -> Tensor:
    """Return 1 + floor(log2(1 + seconds)), at most ``buckets`` - 1, as int64 of the same shape.

    The binary exponent is exact where a logarithm may round across a power of two.
    """
    return torch.frexp(1 + seconds).exponent.long().clamp(1, buckets - 1)


def _time_table(rows: int, dim: int) -> nn.Parameter:
    # Small beside what embeddings grow to, so that content decides before time is learnt.
    return nn.Parameter(torch.randn(rows, dim) * 0.02)


def _masked_softmax(score_BHL: Tensor, lengths_B: Tensor) -> Tensor:
    """Return weights (B, H, L) that are exactly zero past a row's length, even if that is zero."""
    place_L = torch.arange(score_BHL.shape[-1], device=lengths_B.device)
    real_B1L = (place_L < lengths_B[:, None])[:, None]
    lowest = torch.finfo(score_BHL.dtype).min
    return score_BHL.masked_fill(~real_B1L, lowest).softmax(dim=-1) * real_B1L


def _split(x_BD: Tensor, projection: nn.Linear | None, *, heads: int) -> Tensor:
    """Return the projection of x cut into heads (B, H, W)."""
    y_BD = x_BD if projection is None else projection(x_BD)
    return y_BD.unflatten(1, (heads, -1))


def _through(query_BHW: Tensor, projection: nn.Linear | None) -> Tensor:
    """Return (B, H, D) whose product with x is the query's with the projection of x."""
    if projection is None:
        return query_BHW
    weight_HWD = projection.weight.unflatten(0, (query_BHW.shape[1], -1))
    return torch.einsum("bhw,hwd->bhd", query_BHW, weight_HWD)


def _onto(mix_BHD: Tensor, projection: nn.Linear | None) -> Tensor:
    """Return each head's part (B, H, W) of the projection of its own mix."""
    if projection is None:
        return mix_BHD
    weight_HWD = projection.weight.unflatten(0, (mix_BHD.shape[1], -1))
    return torch.einsum("bhd,hwd->bhw", mix_BHD, weight_HWD)
