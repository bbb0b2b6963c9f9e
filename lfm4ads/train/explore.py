"""Ranking scores that give ads of uncertain appeal a chance.

Dimension key: N scores, of any shape.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

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
    mean_N: Tensor, variance_N: Tensor, *, config: ExploreConfig, generator: torch.Generator
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
        generator: Of Thompson's draws, on the device of the logits; the others draw nothing.
    """
    match config.kind:
        case "greedy":
            return mean_N
        case "ucb":
            deviation_N = torch.sqrt(variance_N)
        case "thompson":
            noise_N = torch.randn(
                mean_N.shape, generator=generator, dtype=mean_N.dtype, device=mean_N.device
            )
            deviation_N = noise_N * torch.sqrt(variance_N)
    return mean_N + config.temperature * deviation_N
