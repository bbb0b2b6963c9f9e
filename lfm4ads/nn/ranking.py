"""Ranking terms beside the cross-entropy: pairs, lists and two logits.

BCE's gradient on a negative is its predicted rate, which vanishes where positives are rare; that of
a pair is not (Lin et al., KDD 2024, arXiv 2403.14144). Rows are compared inside a group only. A row
of weight w counts as w rows would: a pair weighs the product of both weights, a list's sum has each
row w times. So a weight shifts what the terms are optimal at just as it shifts BCE's.

A group of one class ranks nothing: it adds no value and no gradient. In the public code of the
paper an all-positive list still pulls its logits together.

Dimension key: N labelled rows of one task, P positives, M negatives, G groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The labelled rows of one task."""

    positive_N: Tensor
    """(N,) bool."""
    group_N: Tensor
    """(N,) int64 in 0..num_groups - 1; rows of different groups are never compared."""
    weight_N: Tensor
    """(N,) above 0."""
    num_groups: int
    mass_G: Tensor
    """(G,) how much each group's mean weighs in that of all: the weight of its labels. Otherwise
    the scenario with most pairs, the one with most clicks, would be the only one ranked."""

    def take(self, rows: Tensor) -> "Ranked":
        """Return some rows, by index or bool mask (N,)."""
        return Ranked(
            positive_N=self.positive_N[rows],
            group_N=self.group_N[rows],
            weight_N=self.weight_N[rows],
            num_groups=self.num_groups,
            mass_G=self.mass_G,
        )

    def comparable(self) -> Tensor:
        """Return which rows (N,) are in a group that has both classes."""
        seen_X = torch.zeros(2 * self.num_groups, dtype=torch.bool, device=self.group_N.device)
        seen_X[2 * self.group_N + self.positive_N] = True
        return seen_X.view(-1, 2).all(dim=1)[self.group_N]


def pair_loss(z_N: Tensor, *, rows: Ranked) -> Tensor:
    """Return the mean over groups of the mean of -log sigmoid(z_i - z_j), i positive, j negative.

    Combined-Pair of arXiv 2403.14144, whose code has the whole batch as one group. Holds P x M
    numbers; see ``cap_negatives``.
    """
    positive = rows.positive_N
    same_PM = rows.group_N[positive].unsqueeze(1) == rows.group_N[~positive]
    weight_PM = rows.weight_N[positive].unsqueeze(1) * rows.weight_N[~positive] * same_PM
    loss_PM = -F.logsigmoid(z_N[positive].unsqueeze(1) - z_N[~positive])
    group_P = rows.group_N[positive]
    return _mean_of_groups((weight_PM * loss_PM).sum(1), weight_PM.sum(1), group_P, rows=rows)


def list_loss(score_N: Tensor, *, rows: Ranked) -> Tensor:
    """Return the mean over groups of that over positives of -log softmax within the group.

    Combined-List of arXiv 2403.14144: the sum runs over all rows of the group, the other positives
    too.
    """
    kept = rows.comparable()
    score_N, rows = score_N[kept], rows.take(kept)
    loss_N = _log_sum_exp(score_N, rows=rows) - score_N
    weight_N = rows.weight_N * rows.positive_N
    return _mean_of_groups(weight_N * loss_N, weight_N, rows.group_N, rows=rows)


def list_ce_loss(z_N: Tensor, *, rows: Ranked) -> Tensor:
    """Return the list loss with sigmoid(z) in place of e^z.

    ListCE of the regression compatible ranking, arXiv 2211.01494: its optimum is BCE's. Not
    invariant to a shift of z.
    """
    return list_loss(F.logsigmoid(z_N), rows=rows)


def jrc_loss(z_N2: Tensor, *, rows: Ranked) -> Tensor:
    """Return the label-wise batch softmax of two logits a row; the rate is sigmoid(z1 - z0).

    The generative term of JRC, arXiv 2208.06164: a positive competes by z1, a negative by z0, each
    with all rows of its group; a group's mean is over rows of both classes.
    """
    kept = rows.comparable()
    z_N2, rows = z_N2[kept], rows.take(kept)
    loss_N2 = torch.stack([_log_sum_exp(z_N, rows=rows) - z_N for z_N in z_N2.unbind(1)], dim=1)
    loss_N = torch.where(rows.positive_N, loss_N2[:, 1], loss_N2[:, 0])
    return _mean_of_groups(rows.weight_N * loss_N, rows.weight_N, rows.group_N, rows=rows)


def cap_negatives(rows: Ranked, *, hash_N: Tensor, max_negatives: int) -> Tensor:
    """Return which rows (N,) stay: all positives, and the negatives of the smallest hashes.

    All positives share the negatives that stay, so ``pair_loss`` holds P x max_negatives numbers.
    They are drawn over all groups alike, so a group's mean over their pairs estimates that over all
    of its pairs. The choice does not depend on the order of rows: of negatives with equal hashes at
    the limit, which are copies of one row, none stays.
    """
    hashes = hash_N[~rows.positive_N].sort().values
    if len(hashes) <= max_negatives:
        return torch.ones_like(rows.positive_N)
    return rows.positive_N | (hash_N < hashes[max_negatives])


def hash_rows(keys: Sequence[Tensor], *, salt: int) -> Tensor:
    """Return a hash (N,) int64 of rows by their int64 keys (N,), another one for each salt."""
    hash_N = _mix64(torch.full_like(keys[0], salt))
    for key_N in keys:
        hash_N = _mix64(hash_N ^ key_N)
    return hash_N


def _mean_of_groups(total_N: Tensor, weight_N: Tensor, group_N: Tensor, *, rows: Ranked) -> Tensor:
    """Return the groups' means of total / weight, weighted by their mass.

    A group in which nothing was compared adds zero, with zero gradient.
    """
    empty_G = total_N.new_zeros(rows.num_groups)
    total_G = empty_G.index_add(0, group_N, total_N)
    weight_G = empty_G.index_add(0, group_N, weight_N.to(total_N.dtype))
    mean_G = total_G / torch.where(weight_G > 0, weight_G, 1)
    mass_G = rows.mass_G.to(total_N.dtype)
    mass = mass_G.sum()
    return (mass_G * mean_G).sum() / torch.where(mass > 0, mass, 1)


def _log_sum_exp(score_N: Tensor, *, rows: Ranked) -> Tensor:
    """Return log sum_j w_j e^{s_j} over each row's group (N,)."""
    weighted_N = score_N + rows.weight_N.log()
    lowest_G = weighted_N.new_full((rows.num_groups,), -torch.inf)
    peak_N = lowest_G.scatter_reduce(0, rows.group_N, weighted_N.detach(), "amax")[rows.group_N]
    sum_G = torch.zeros_like(lowest_G).index_add(0, rows.group_N, (weighted_N - peak_N).exp())
    return sum_G[rows.group_N].log() + peak_N


def _mix64(x_N: Tensor) -> Tensor:
    """SplitMix64's finaliser as ``data.hashing.mix64``, on signed integers of any device."""
    x_N = x_N - 0x61C8864680B583EB  # + 0x9E3779B97F4A7C15 modulo 2**64
    x_N = (x_N ^ _shift(x_N, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    x_N = (x_N ^ _shift(x_N, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return x_N ^ _shift(x_N, 31)


def _shift(x_N: Tensor, bits: int) -> Tensor:
    """Shift to the right filling zeros; torch fills the sign."""
    return (x_N >> bits) & ((1 << (64 - bits)) - 1)
