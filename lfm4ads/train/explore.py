"""Ranking scores that give ads of uncertain appeal a chance.

Dimension key: N scores, of any shape.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lfm4ads.data.batch import Batch
from lfm4ads.nn.ranking import hash_rows

ExploreKind = Literal["greedy", "thompson", "ucb"]


@dataclass(frozen=True, kw_only=True)
class ExploreConfig:
    """How far a ranking score may leave the mean."""

    kind: ExploreKind = "greedy"
    temperature: float = 1.0
    """Standard deviations: kappa of UCB, the factor on Thompson's draw; 0 is the greedy order."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"explore.temperature must be finite and not negative, got {self.temperature}"
            )


def ranking_scores(
    mean_N: Tensor, variance_N: Tensor, *, config: ExploreConfig, noise_N: Tensor
) -> Tensor:
    """Return the scores (N) to rank by: m, m + kappa sqrt(var) or m + eps sqrt(var), eps ~ N(0, 1).

    Only the order is explored. What an advertiser is charged, and any probability that is reported,
    comes from the mean; with bids, rank by bid * sigmoid(score) and charge by the sigmoid of the
    mean, or advertisers would pay for the draw (section 5.4 of the notes on arXiv 2403.00793; the
    UCB and Thompson forms are those of DUAL, arXiv 2012.02298).

    Args:
        mean_N: Logits.
        variance_N: Variance of each logit, in squared logits; not negative.
        config: Kind and temperature.
        noise_N: Standard normal draws for Thompson's; see ``row_noise``. The others ignore them.
    """
    match config.kind:
        case "greedy":
            return mean_N
        case "ucb":
            deviation_N = torch.sqrt(variance_N)
        case "thompson":
            deviation_N = noise_N * torch.sqrt(variance_N)
    return mean_N + config.temperature * deviation_N


def row_noise(batch: Batch, *, columns: int, seed: int) -> Tensor:
    """Return standard normal draws (B, columns) that depend on the seed and the row alone.

    So a row's score is the same in any batch and on any number of ranks.
    """
    keys = (batch.row_id, batch.user, batch.item, batch.time, batch.scenario)
    salts = [(seed * 2 * columns + place) % 2**63 for place in range(2 * columns)]
    draws = [hash_rows(keys, salt=salt).double() * 2.0**-64 + 0.5 for salt in salts]
    # Box and Muller's transform of two uniforms to one normal.
    radius = [torch.sqrt(-2 * torch.log(one.clamp(min=2.0**-53))) for one in draws[:columns]]
    angle = [2 * math.pi * one for one in draws[columns:]]
    noise = [far * torch.cos(turn) for far, turn in zip(radius, angle, strict=True)]
    return torch.stack(noise, dim=1).float()
