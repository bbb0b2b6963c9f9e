"""Differences of AUCs on the same rows, with intervals over rows and over training seeds.

Rows: the paired variance of DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), rows taken as
independent. Placement values come from sorted arrays in O(n log n), as Sun and Xu, IEEE Signal
Processing Letters 21 (2014) do with midranks; a binary search into the other class yields the same
numbers and is faster when positives are rare.
Seeds: Student's t over the per-seed differences. The two variances add.

Dimension key: S seeds, N rows, P positive rows, Q negative rows, K score sets, M contrasts
(differences of AUCs).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from lfm4ads.core.ranks import Array
from lfm4ads.metrics.delong import Z_95
from lfm4ads.metrics.rows import scored_rows

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Placements:
    """Share of the other class that each row is on the right side of, ties counted half."""

    positive: Floats
    """(P,) share of negatives below each positive row, in row order."""
    negative: Floats
    """(Q,) share of positives above each negative row, in row order."""
    auc: float


@dataclass(frozen=True, kw_only=True)
class PairedScores:
    """Logits of two arms on the rows of one scenario."""

    scores_a: Array
    """(S, N)."""
    scores_b: Array
    """(S, N), seed s trained like seed s of a."""
    labels: Array
    """(N,) of 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class GapScores:
    """Logits of an arm, a baseline and the true model on the rows of one scenario."""

    scores_arm: Array
    """(S, N)."""
    scores_base: Array
    """(S, N)."""
    scores_oracle: Array
    """(N,)."""
    labels: Array
    """(N,) of 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class Lift:
    """AUC of a less AUC of b, mean over seeds and scenarios, with its 95 % interval."""

    delta_auc: float
    low: float
    high: float
    num_seeds: int
    """With one seed the interval covers the choice of rows only."""
    num_scenarios: int
    """Scenarios with at least two rows of each class; the mean is over these."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Part of the AUC gap from a baseline to the oracle that an arm closes, with its interval."""

    share: float | None
    """None when the gap is 0."""
    low: float | None
    high: float | None
    """None when the gap itself is not surely above or below 0: any share is possible then."""
    num_seeds: int
    num_scenarios: int


def delong_placements(scores: Array, *, labels: Array) -> Placements:
    """Return placement values and AUC of scores (N,); both classes must have rows."""
    rows = scored_rows(scores, labels=labels)
    positive, negative = rows.logits[rows.labels], rows.logits[~rows.labels]
    if not len(positive) or not len(negative):
        raise ValueError(f"{len(positive)} positive and {len(negative)} negative rows have no AUC")
    share_below = _share_below(positive, of=negative)
    return Placements(
        positive=share_below,
        negative=1.0 - _share_below(negative, of=positive),
        auc=float(share_below.mean()),
    )


def paired_lift(scores_a: Array, *, scores_b: Array, labels: Array) -> Lift | None:
    """Return the lift of a over b, or None with fewer than two rows of a class.

    Args:
        scores_a: (S, N) logits of one arm, a row a seed.
        scores_b: (S, N) logits of the other on the same rows; np.broadcast_to those of a model that
            has no seeds.
        labels: (N,) of 0 and 1.
    """
    return mean_lift([PairedScores(scores_a=scores_a, scores_b=scores_b, labels=labels)])


def mean_lift(scenarios: Sequence[PairedScores]) -> Lift | None:
    """Return the mean lift over scenarios, which share no rows.

    None when no scenario has two rows of each class.
    """
    mean = _mean_contrasts(
        [
            _contrasts([each.scores_a, each.scores_b], weights=[[1.0, -1.0]], labels=each.labels)
            for each in scenarios
        ]
    )
    if mean is None:
        return None
    delta = float(mean.deltas.mean())
    half = float(np.sqrt(_squared_half_widths(mean)[0, 0]))
    return Lift(
        delta_auc=delta,
        low=delta - half,
        high=delta + half,
        num_seeds=len(mean.deltas),
        num_scenarios=mean.num_scenarios,
    )


def share_of_gap(
    scores_arm: Array, *, scores_base: Array, scores_oracle: Array, labels: Array
) -> Share | None:
    """Return (AUC_arm - AUC_base) / (AUC_oracle - AUC_base).

    None with fewer than two rows of a class.

    Args:
        scores_arm: (S, N) logits, a row a seed.
        scores_base: (S, N).
        scores_oracle: (N,).
        labels: (N,) of 0 and 1.
    """
    scores = GapScores(
        scores_arm=scores_arm, scores_base=scores_base, scores_oracle=scores_oracle, labels=labels
    )
    return mean_share_of_gap([scores])


def mean_share_of_gap(scenarios: Sequence[GapScores]) -> Share | None:
    """Return the mean lift over scenarios as a share of their mean gap.

    The interval is Fieller's (JRSS B 16, 1954): it leaves out 0 exactly when that of the lift does,
    which the delta method does not promise.
    """
    mean = _mean_contrasts(
        [
            _contrasts(
                [
                    each.scores_arm,
                    each.scores_base,
                    np.broadcast_to(each.scores_oracle, each.scores_arm.shape),
                ],
                weights=[[1.0, -1.0, 0.0], [0.0, -1.0, 1.0]],
                labels=each.labels,
            )
            for each in scenarios
        ]
    )
    if mean is None:
        return None
    lift, gap = (float(delta) for delta in mean.deltas.mean(axis=0))
    low, high = _fieller(lift, gap=gap, widths=_squared_half_widths(mean))
    return Share(
        share=lift / gap if gap else None,
        low=low,
        high=high,
        num_seeds=len(mean.deltas),
        num_scenarios=mean.num_scenarios,
    )


@dataclass(frozen=True, kw_only=True)
class _Contrasts:
    deltas: Floats
    """(S, M)."""
    row_covariance: Floats
    """(M, M) of the mean over seeds, from the choice of rows."""
    num_scenarios: int


def _share_below(scores: Array, *, of: Array) -> Floats:
    ordered = np.sort(of)
    below = np.searchsorted(ordered, scores, side="left")
    return (below + np.searchsorted(ordered, scores, side="right")) / (2.0 * len(of))


def _contrasts(
    score_sets: Sequence[Array], *, weights: Sequence[Sequence[float]], labels: Array
) -> _Contrasts | None:
    """Return weights (M, K) applied to the AUCs of K score sets (S, N)."""
    shapes = {np.shape(scores) for scores in score_sets}
    if len(shapes) > 1 or any(len(shape) != 2 or shape[1:] != labels.shape for shape in shapes):
        raise ValueError(
            f"score sets of shapes {sorted(shapes)} do not pair up over {labels.shape} labels"
        )
    num_positives = np.count_nonzero(labels)
    if min(num_positives, len(labels) - num_positives) < 2:
        return None
    weights_MK = np.array(weights)
    placements = [
        [delong_placements(row, labels=labels) for row in scores] for scores in score_sets
    ]
    auc_KS = np.array([[seed.auc for seed in seeds] for seeds in placements])
    positive_KP = np.array(
        [np.mean([seed.positive for seed in seeds], axis=0) for seeds in placements]
    )
    negative_KQ = np.array(
        [np.mean([seed.negative for seed in seeds], axis=0) for seeds in placements]
    )
    return _Contrasts(
        deltas=(weights_MK @ auc_KS).T,
        row_covariance=_covariance(weights_MK @ positive_KP)
        + _covariance(weights_MK @ negative_KQ),
        num_scenarios=1,
    )


def _covariance(samples: Floats) -> Floats:
    """Return the covariance (M, M) of the mean of samples (M, n)."""
    return np.atleast_2d(np.cov(samples)) / samples.shape[1]


def _mean_contrasts(scenarios: Sequence[_Contrasts | None]) -> _Contrasts | None:
    """Average scenarios: rows are independent, so variances add; a seed is one run over all."""
    defined = [scenario for scenario in scenarios if scenario is not None]
    if not defined:
        return None
    return _Contrasts(
        deltas=np.mean([scenario.deltas for scenario in defined], axis=0),
        row_covariance=np.sum([scenario.row_covariance for scenario in defined], axis=0)
        / len(defined) ** 2,
        num_scenarios=len(defined),
    )


def _squared_half_widths(contrasts: _Contrasts) -> Floats:
    """Return the covariance (M, M) of the mean, each source times its squared 97.5 % quantile."""
    num_seeds = len(contrasts.deltas)
    widths = Z_95**2 * contrasts.row_covariance
    if num_seeds > 1:
        widths = widths + stdtrit(num_seeds - 1, 0.975) ** 2 * _covariance(contrasts.deltas.T)
    return widths


def _fieller(lift: float, *, gap: float, widths: Floats) -> tuple[float | None, float | None]:
    """Return the shares r for which lift - r * gap is not surely different from 0."""
    square = gap**2 - widths[1, 1]
    if square <= 0.0:
        return None, None
    centre = (lift * gap - widths[0, 1]) / square
    half = np.sqrt(max(0.0, centre**2 - (lift**2 - widths[0, 0]) / square))
    return float(centre - half), float(centre + half)
