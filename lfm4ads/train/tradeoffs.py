"""What ways of weighing tasks make of their losses and of their gradients' inner products.

Dimension key: N tasks.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def uncertainty_slope(variance_N: Floats, *, loss_N: Floats) -> Floats:
    """Return the derivative by s of ``exp(-s) L + s / 2``, of which log variance 2L has the least.

    Kendall et al., arXiv 1705.07115, for classification, with s = log sigma^2.

    Args:
        variance_N: Log variances s.
        loss_N: Mean loss of a label.
    """
    return 0.5 - np.exp(-variance_N) * loss_N


def gradnorm_slope(weight_N: Floats, *, norm_N: Floats, rate_N: Floats, alpha: float) -> Floats:
    """Return the derivative by w of ``sum_i |G_i - mean(G) r_i^alpha|``, the targets held fixed.

    Chen et al., arXiv 1711.02257: G_i = w_i times the norm of the task's gradient, r_i the inverse
    training rate relative to the mean.

    Args:
        weight_N: Weights w.
        norm_N: Norms of the unweighted losses' gradients.
        rate_N: Loss relative to the first one.
        alpha: How hard slow tasks are pulled.
    """
    if len(weight_N) == 0:
        return weight_N.copy()
    size_N = weight_N * norm_N
    mean = rate_N.mean()
    target_N = size_N.mean() * (rate_N / mean if mean > 0 else np.ones_like(rate_N)) ** alpha
    return np.sign(size_N - target_N) * norm_N


def pcgrad_weights(gram_NN: Floats, *, orders: Sequence[Sequence[int]]) -> Floats:
    """Return the weights under which the sum of gradients is the sum of PCGrad's.

    Yu et al., arXiv 2001.06782: every gradient is projected on the normal plane of each other one
    that it then conflicts with, in random order. What becomes of it is ``sum_j c_ij g_j``, whose
    inner products with all gradients are ``c_i gram``: these are all that is needed, and
    ``w_j = sum_i c_ij``. A conflict adds a positive multiple of the other gradient, so no weight is
    below 1.

    Args:
        gram_NN: Inner products of the gradients.
        orders: For each task, the others in the order in which its gradient meets theirs.
    """
    share_NN = np.eye(len(gram_NN))
    for share_N, others in zip(share_NN, orders, strict=True):
        for other in others:
            product, square = share_N @ gram_NN[:, other], gram_NN[other, other]
            if product < 0 < square:
                share_N[other] -= product / square
    return share_NN.sum(0)


def draw_orders(count: int, *, step: int) -> list[list[int]]:
    """Return for each task the others in random order, the same on every rank."""
    rng = np.random.default_rng(step)
    return [
        [one for one in rng.permutation(count).tolist() if one != task] for task in range(count)
    ]
