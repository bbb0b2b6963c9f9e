"""Risk sets of a Cox model as sums over blocks of equal times: no matrix of rows by rows.

Rows are in blocks 0..T-1 of ascending time. A block with events has one term (Breslow) or as many
as events (Efron); term e stands for u_e log(S0 - f_e E0), with S0 the risk of the rows of its block
and later ones and E0 that of its block's events. Blocks of different ranks add up before anything
is suffix-summed, so rows may lie anywhere.

Dimension key: N rows, T blocks, E terms.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lfm4ads.selection.columns import Floats, Ints

Ties = Literal["efron", "breslow"]


@dataclass(frozen=True)
class RiskTerms:
    """Where the terms of the partial likelihood lie."""

    block_E: Ints
    """Block of every term, ascending."""
    weight_E: Floats
    fraction_E: Floats
    """Share of the block's events that has left the risk set."""
    num_blocks: int
    eventful: Ints
    """Blocks with events."""


def build_terms(*, weight_T: Floats, count_T: Ints, ties: Ties) -> RiskTerms:
    """Return the terms of blocks with events of some total weight and count."""
    eventful = np.flatnonzero(weight_T > 0)
    if ties == "breslow":
        return RiskTerms(
            eventful, weight_T[eventful], np.zeros(len(eventful)), len(weight_T), eventful
        )
    counts = count_T[eventful]
    block_E = np.repeat(eventful, counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    fraction_E = (np.arange(len(block_E)) - first) / np.repeat(counts, counts)
    weight_E = np.repeat(weight_T[eventful] / counts, counts)
    return RiskTerms(block_E, weight_E, fraction_E, len(weight_T), eventful)


def suffix_sum(values_T: Floats) -> Floats:
    """Return sums over a block and all later ones, along the first axis."""
    return np.cumsum(values_T[::-1], axis=0)[::-1]


@dataclass(frozen=True)
class Risk:
    """The terms at one linear predictor, gathered by block."""

    log_loss: float
    """Sum over terms of u log(S0 - f E0)."""
    rows_T: Floats
    """What the risk of a row of a block is multiplied by in the gradient."""
    events_T: Floats
    """What is taken off that for a row with an event."""
    square_3T: Floats
    """Sums over a block's terms of u o^2, u f o^2 and u f^2 o^2 with o = 1 / (S0 - f E0)."""


def measure_risk(terms: RiskTerms, *, risk_T: Floats, event_risk_T: Floats) -> Risk:
    """Return the terms for the sums of exp(predictor) over rows and over events of every block."""
    left_E = suffix_sum(risk_T)[terms.block_E] - terms.fraction_E * event_risk_T[terms.block_E]
    # A step far out may leave nothing at risk in double precision; the clipped loss is too high.
    left_E = np.maximum(left_E, 1e-300)
    ratio_E = terms.weight_E / left_E

    def by_block(values_E: Floats) -> Floats:
        return np.bincount(terms.block_E, values_E, minlength=terms.num_blocks).astype(np.float64)

    square_E = ratio_E / left_E
    fraction_E = terms.fraction_E
    squares = [square_E, square_E * fraction_E, square_E * fraction_E**2]
    loss = float(terms.weight_E @ np.log(left_E))
    return Risk(
        loss,
        np.cumsum(by_block(ratio_E)),
        by_block(ratio_E * fraction_E),
        np.stack([by_block(one) for one in squares]),
    )


def squared_means(
    terms: RiskTerms, risk: Risk, *, sums_TK: Floats, event_sums_TK: Floats | None, full: bool
) -> Floats:
    """Return the sum over terms of u s s' (K, K), or its diagonal (K,).

    s = (S1 - f E1) o is the risk-weighted mean of the columns in a term. The square is multiplied
    out, so that no array is as long as there are events.
    """
    eventful = terms.eventful
    later_TK = suffix_sum(sums_TK)[eventful]
    first_T, cross_T, last_T = risk.square_3T[:, eventful, None]
    if event_sums_TK is None:
        return later_TK.T @ (later_TK * first_T) if full else (later_TK**2 * first_T).sum(0)
    events_TK = event_sums_TK[eventful]
    if not full:
        whole_TK = later_TK**2 * first_T - 2 * later_TK * events_TK * cross_T
        return (whole_TK + events_TK**2 * last_T).sum(0)
    mixed_KK = later_TK.T @ (events_TK * cross_T)
    own_KK = later_TK.T @ (later_TK * first_T) + events_TK.T @ (events_TK * last_T)
    return own_KK - mixed_KK - mixed_KK.T
