"""In-batch sampled softmax over the items of the global batch, with logQ correction.

Dimension key: B rows of this rank, R rows of all ranks, P positive rows, D width, I items.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lfm4ads.core.ranks import Ranks

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SoftmaxConfig:
    """What a positive is told apart from."""

    candidates: Literal["rows", "positives"] = "rows"
    """Rows that lend their items as negatives: all that were shown, or those with a positive."""
    logq: bool = True
    """Correct for how often a candidate is drawn; without it popular items are held down."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frequency:
    """How often each item stands in a candidate row of the training days."""

    items: Int64s
    """(I,) sorted keys."""
    log_share: npt.NDArray[np.float32]
    """(I,) log of its share of the rows."""

    def of(self, items: Int64s) -> npt.NDArray[np.float32]:
        """Return log q (N,) of items (N,); one that was never counted has half a row's share."""
        place = np.minimum(np.searchsorted(self.items, items), len(self.items) - 1)
        known = self.items[place] == items
        rare = self.log_share.min() - np.float32(np.log(2.0))
        return np.where(known, self.log_share[place], rare).astype(np.float32)


def frequency(items: Int64s, counts: Int64s) -> Frequency:
    """Return the shares of distinct sorted ``items`` (I,) counted ``counts`` (I,) times."""
    share = counts / counts.sum()
    return Frequency(items=items, log_share=np.log(share).astype(np.float32))


@dataclass
class Rows:
    """One rank's rows as the softmax sees them."""

    query_BD: Tensor
    item_BD: Tensor
    key_B: Tensor
    """Keys of the items, int64."""
    log_q_B: Tensor
    drawn_B: Tensor
    """1 where the row lends its item as a negative."""
    known_B: Tensor
    """1 where the item has a vector: without one it is neither positive nor negative."""
    positive_B: Tensor
    """1 where the row is a positive whose softmax counts."""


def sampled_softmax(rows: Rows, *, logq: bool, ranks: Ranks) -> Tensor:
    """Return this rank's part of the loss, summed over its positives. Collective.

    -log of exp(s_i) / (exp(s_i) + sum over other rows j of exp(s_j) / (n q_j)), where n is the
    number of rows that are drawn besides the positive's own, and rows of the same item are left out
    (accidental hits). In expectation the sum is that over the whole catalogue. Unlike Yi et al.
    (RecSys 2019, Eq. 6) the positive's own score is not corrected, since it is not drawn: with both
    corrected the positive of a rare item weighs 1 / q_i against n, and it hardly learns.

    Gradients sum over ranks to that of the global batch. Where items learn too, a rank also works
    out what the others' positives do to its items.
    """
    everywhere = rows.item_BD.requires_grad
    first, count = ranks.rank * len(rows.key_B), len(rows.key_B)
    item_RD = _with_own(rows.item_BD, ranks=ranks)
    facts = torch.stack([rows.drawn_B, rows.known_B, rows.positive_B, rows.log_q_B], dim=1)
    drawn_R, known_R, positive_R, log_q_R = ranks.all_gather(facts.float()).unbind(1)
    key_R = ranks.all_gather(rows.key_B)
    others = drawn_R.sum() - drawn_R
    columns = _Columns(item_RD, key_R, log_q_R, (drawn_R * known_R) > 0, others, logq)
    counts_R = (positive_R * known_R) > 0
    own = torch.zeros_like(counts_R)
    own[first : first + count] = True
    if not everywhere:
        place_P = (counts_R & own).nonzero().squeeze(1)
        return _losses(rows.query_BD[place_P - first], place_P, columns).sum()
    query_RD = _with_own(rows.query_BD, ranks=ranks)
    place_P = counts_R.nonzero().squeeze(1)
    loss_P = _losses(query_RD[place_P], place_P, columns)
    total, mine = loss_P.sum(), (loss_P * own[place_P]).sum()
    return mine.detach() + (total - total.detach())


@dataclass
class _Columns:
    item_RD: Tensor
    key_R: Tensor
    log_q_R: Tensor
    lent_R: Tensor
    """Whether the row's item stands among the negatives."""
    others_R: Tensor
    """Rows drawn besides this one."""
    logq: bool


def _losses(query_PD: Tensor, place_P: Tensor, columns: _Columns) -> Tensor:
    score_PR = query_PD @ columns.item_RD.t()
    own_P1 = score_PR.gather(1, place_P.unsqueeze(1))
    if columns.logq:
        expected_P1 = columns.others_R[place_P].clamp(min=1).log().unsqueeze(1)
        score_PR = score_PR - (columns.log_q_R + expected_P1)
    hit_PR = columns.key_R == columns.key_R[place_P].unsqueeze(1)
    score_PR = score_PR.masked_fill(hit_PR | ~columns.lent_R, float("-inf"))
    return torch.cat([own_P1, score_PR], dim=1).logsumexp(1) - own_P1.squeeze(1)


def _with_own(mine_BD: Tensor, *, ranks: Ranks) -> Tensor:
    """Return all ranks' rows (R, D), those of this rank with their history."""
    first, count = ranks.rank * len(mine_BD), len(mine_BD)
    before, _, after = ranks.all_gather(mine_BD).split(
        [first, count, (ranks.world - 1) * count - first]
    )
    return torch.cat([before, mine_BD, after])
