"""AUC with DeLong's variance from counts of positives and negatives at each distinct score.

E. DeLong, D. DeLong, D. Clarke-Pearson, Biometrics 44 (1988): the AUC is a two-sample U-statistic,
and its variance is estimated from placement values, the share of the other class that a row is on
the right side of (ties count half).
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Z_95 = NormalDist().inv_cdf(0.975)
_TAIL = 0.025


@dataclass(frozen=True, kw_only=True)
class AucEstimate:
    """An AUC and how sure of it its rows make us."""

    auc: float
    variance: float | None
    """None with fewer than two rows of a class."""
    low: float | None
    high: float | None
    """Ends of the 95 % interval, None where the variance is."""


def estimate_auc(positives: npt.NDArray[Any], *, negatives: npt.NDArray[Any]) -> AucEstimate | None:
    """Return the AUC of rows counted by score, or None when a class has no row.

    Args:
        positives: (B,) positive rows at each distinct score, ascending by score.
        negatives: (B,) negative rows at the same scores.
    """
    num_positives, num_negatives = int(positives.sum()), int(negatives.sum())
    if num_positives == 0 or num_negatives == 0:
        return None
    beaten = (np.cumsum(negatives) - 0.5 * negatives) / num_negatives
    beaten_by = 1.0 - (np.cumsum(positives) - 0.5 * positives) / num_positives
    auc = float(positives @ beaten) / num_positives
    if num_positives < 2 or num_negatives < 2:
        return AucEstimate(auc=auc, variance=None, low=None, high=None)
    of_positives = float(positives @ (beaten - auc) ** 2) / (num_positives - 1) / num_positives
    of_negatives = float(negatives @ (beaten_by - auc) ** 2) / (num_negatives - 1) / num_negatives
    variance = of_positives + of_negatives
    # Satterthwaite: a variance estimated from few positives is itself unsure.
    doubt = of_positives**2 / (num_positives - 1) + of_negatives**2 / (num_negatives - 1)
    low, high = interval(
        auc,
        variance=variance,
        degrees=variance**2 / doubt if doubt else np.inf,
        pairs=min(num_positives, num_negatives),
    )
    return AucEstimate(auc=auc, variance=variance, low=low, high=high)


def interval(auc: float, *, variance: float, degrees: float, pairs: int) -> tuple[float, float]:
    """Return the 95 % interval of an AUC, symmetric on the logit scale to stay inside [0, 1].

    Measured on 4000 binormal samples each: it covers an AUC of 0.76 in 93 % with 5 positives and
    95 % with 20 or more (with the normal quantile 86 % and 94 %). Placements near 1 are skewed,
    which DeLong's variance does not see: an AUC of 0.96 is covered in only 85 % with 10 positives,
    92 % with 30, 94 % with 200.

    A perfectly ordered sample has variance 0 but proves little when one class is small: its
    interval is the exact binomial one (Clopper-Pearson) of ``pairs`` disjoint pairs of a positive
    and a negative that were all in order.

    Args:
        auc: The estimate.
        variance: Its DeLong variance.
        degrees: Degrees of freedom of that variance; np.inf for one that is known.
        pairs: Rows of the smaller class.
    """
    doubt = 1.0 - _TAIL ** (1.0 / pairs)
    if auc >= 1.0:
        return 1.0 - doubt, 1.0
    if auc <= 0.0:
        return 0.0, doubt
    centre = np.log(auc) - np.log1p(-auc)
    half = stdtrit(degrees, 0.975) * np.sqrt(variance) / (auc * (1.0 - auc))
    low, high = 1.0 / (1.0 + np.exp(-(centre + np.array([-half, half]))))
    return float(low), float(high)
