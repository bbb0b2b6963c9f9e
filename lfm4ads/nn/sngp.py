"""Heads that know where they have seen data: random features with a Laplace precision (SNGP).

Liu et al., arXiv 2006.10108, algorithm 1. A Gaussian process per task with a
Gaussian kernel, cut to R random Fourier features; its weights' posterior covariance is the inverse
of the precision ridge I + sum p (1 - p) phi phi^T over the labelled rows.

Dimension key: B rows, H hidden width, R random features, S scenarios, T tasks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lfm4ads.core.ranks import Array

_FIRST_STD = 0.1


@dataclass(frozen=True)
class _Factor:
    """A Cholesky factor and what it was computed from."""

    sums: Tensor
    versions: tuple[int, int]
    lower_TRR: Tensor


def mean_field(logits: Tensor, variance: Tensor) -> Tensor:
    """Return logit / sqrt(1 + pi var / 8): its sigmoid is about the mean of sigmoid(N(m, var)).

    MacKay's approximation, as SNGP uses it (arXiv 2006.10108).
    """
    return logits / torch.sqrt(1 + math.pi / 8 * variance)


class SngpHeads(nn.Module):
    """logit[b, t] = (w_t + dw_{s,t}) . phi(h_b) + c_{s,t}, phi = sqrt(2/R) cos(W x + b).

    W and b are drawn from ``seed`` and stay. x = h / sqrt(1 + mean(h^2)) bounds the input, so that
    one kernel width suits hidden layers of any width at any time of training. It is h before the
    ReLU, which would fold all rows of negative units into one, and not layer-normalised, which
    would fold a row and its multiples: rows a head cannot tell apart share their variance. On a toy
    of 20,000 rows layer normalisation cost 0.003 AUC and left rows at three times the spread 1.7
    times the variance of familiar rows, against 8 to 11 times here.

    The precision is per task and shared by scenarios, like w_t. ``observe`` adds rows of this rank
    to pending sums; ``settle`` adds the pending sums of all ranks to ``precision_sum``, which
    ``variance`` reads. Exact mode: decay 1, ``reset_precision`` and one pass over the rows after
    training. Running mode: decay < 1, ``observe`` at every training step; the precision is then the
    decayed mean per row times the rows seen, because phi of early rows has since moved.

    Args:
        width: Of the hidden layer, H.
        scenarios: S.
        tasks: T.
        features: R.
        seed: Of W and b; equal on all ranks.
        ridge: Precision of the prior, of every weight; 1 is a prior variance of one squared logit.
        frequency: Standard deviation of W times sqrt(H); the larger, the sooner a row is new.
        decay: Factor a call of ``observe`` puts on what was observed before.
    """

    frequencies: Tensor
    phases: Tensor
    precision_sum: Tensor
    precision_rows: Tensor
    pending_sum: Tensor
    pending_rows: Tensor

    def __init__(  # noqa: PLR0913 - shape, draw and prior, each a plain number
        self,
        width: int,
        *,
        scenarios: int,
        tasks: int,
        features: int = 1024,
        seed: int = 0,
        ridge: float = 1.0,
        frequency: float = 2.0,
        decay: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < ridge < math.inf:
            raise ValueError(f"the ridge of the precision must be positive, got {ridge}")
        if not 0 < frequency < math.inf:
            raise ValueError(f"the frequency of the features must be positive, got {frequency}")
        if not 0 < decay <= 1:
            raise ValueError(f"the decay of the precision must be in (0, 1], got {decay}")
        self._ridge, self._decay = ridge, decay
        generator = torch.Generator().manual_seed(seed)
        frequencies_RH = torch.randn(features, width, generator=generator)
        self.register_buffer("frequencies", frequencies_RH * frequency * width**-0.5)
        self.register_buffer("phases", 2 * math.pi * torch.rand(features, generator=generator))
        self.shared = nn.Parameter(torch.empty(tasks, features))
        self.delta = nn.Parameter(torch.zeros(scenarios, tasks, features))
        self.bias = nn.Parameter(torch.zeros(scenarios, tasks))
        nn.init.normal_(self.shared, std=_FIRST_STD)
        for name, persistent in (("precision", True), ("pending", False)):
            sums_TRR = torch.zeros(tasks, features, features, dtype=torch.float64)
            rows_T2 = torch.zeros(tasks, 2, dtype=torch.float64)
            self.register_buffer(f"{name}_sum", sums_TRR, persistent=persistent)
            self.register_buffer(f"{name}_rows", rows_T2, persistent=persistent)
        self._factor: _Factor | None = None

    @property
    def is_running(self) -> bool:
        """Whether the precision is a decayed one, observed at every training step."""
        return self._decay < 1

    def features(self, h_BH: Tensor) -> Tensor:
        """Return phi (B, R) of pre-activations (B, H); its norm is about 1."""
        x_BH = h_BH * torch.rsqrt(1 + h_BH.square().mean(dim=1, keepdim=True))
        num_features = len(self.phases)
        angles_BR = x_BH @ self.frequencies.T + self.phases
        return math.sqrt(2 / num_features) * torch.cos(angles_BR)

    def forward(self, h_BH: Tensor, scenario_B: Tensor) -> Tensor:
        """Return logits (B, T) from pre-activations (B, H) and scenario ids (B,)."""
        return self._logits(self.features(h_BH), scenario_B)

    def _logits(self, phi_BR: Tensor, scenario_B: Tensor) -> Tensor:
        all_BST = torch.einsum("br,str->bst", phi_BR, self.shared + self.delta) + self.bias
        index_B1T = scenario_B.view(-1, 1, 1).expand(-1, 1, all_BST.shape[2])
        return all_BST.gather(1, index_B1T).squeeze(1)

    @torch.no_grad()
    def observe(
        self,
        h_BH: Tensor,
        scenario_B: Tensor,
        masks_BT: Tensor,
        *,
        logits_BT: Tensor | None = None,
    ) -> None:
        """Add the labelled rows (mask > 0) of a batch to this rank's pending sums.

        ``logits_BT``: the model's, where more than this head adds to them.

        In running mode every rank must call it equally often, if need be with masks of zeros.
        """
        phi_BR = self.features(h_BH)
        if logits_BT is None:
            logits_BT = self._logits(phi_BR, scenario_B)
        probability_BT = torch.sigmoid(logits_BT).double()
        labelled_BT = (masks_BT > 0).double()
        weight_BT = probability_BT * (1 - probability_BT) * labelled_BT
        if self._decay < 1:
            self.precision_sum.mul_(self._decay)
            self.pending_sum.mul_(self._decay)
            self.precision_rows[:, 0] *= self._decay
            self.pending_rows[:, 0] *= self._decay
        phi_BR = phi_BR.double()
        for sum_RR, weight_B in zip(self.pending_sum, weight_BT.T, strict=True):
            sum_RR.addmm_(phi_BR.T, phi_BR * weight_B[:, None])
        self.pending_rows += labelled_BT.sum(dim=0)[:, None]

    @torch.no_grad()
    def settle(self, sum_over_ranks: Callable[[Array], Array] | None = None) -> None:
        """Move the pending sums of all ranks into the precision; call it before saving or scoring.

        Args:
            sum_over_ranks: ``Ranks.sum`` of the job; every rank calls together. None: this process
                is alone.
        """
        for settled, pending in (
            (self.precision_sum, self.pending_sum),
            (self.precision_rows, self.pending_rows),
        ):
            total = pending
            if sum_over_ranks is not None:
                total = torch.from_numpy(sum_over_ranks(pending.cpu().numpy())).to(settled.device)
            settled.add_(total)
            pending.zero_()

    @torch.no_grad()
    def drop_pending(self) -> None:
        """Forget what was observed and not settled."""
        self.pending_sum.zero_()
        self.pending_rows.zero_()

    @torch.no_grad()
    def reset_precision(self) -> None:
        """Forget all rows, pending ones too: the variance is that of the prior again."""
        for sums in (self.precision_sum, self.precision_rows, self.pending_sum, self.pending_rows):
            sums.zero_()

    def precision(self) -> Tensor:
        """Return ridge I + the settled sums, (T, R, R) float64."""
        decayed_T, rows_T = self.precision_rows.unbind(dim=1)
        scale_T = torch.where(decayed_T > 0, rows_T / decayed_T, 1.0)
        precision_TRR = self.precision_sum * scale_T[:, None, None]
        diagonal_TR = precision_TRR.diagonal(dim1=1, dim2=2)
        # Float64 cannot hold a ridge of less than this beside such a sum; the factor would fail.
        rounding_T = diagonal_TR.amax(dim=1) * diagonal_TR.shape[1] * torch.finfo(torch.float64).eps
        diagonal_TR += rounding_T.clamp_min(self._ridge)[:, None]
        return precision_TRR

    @torch.no_grad()
    def variance(self, h_BH: Tensor) -> Tensor:
        """Return phi^T Sigma phi (B, T), the variance of each logit, in squared logits.

        Scenarios share it. It knows the rows up to the last ``settle``.
        """
        phi_RB = self.features(h_BH).double().T
        factor_TRR = self._cholesky()
        columns = [
            torch.linalg.solve_triangular(factor_RR, phi_RB, upper=False).square().sum(dim=0)
            for factor_RR in factor_TRR
        ]
        return torch.stack(columns, dim=1).to(h_BH.dtype)

    def _cholesky(self) -> Tensor:
        # Versions count every change in place, so a checkpoint that is loaded is seen as well.
        sums, rows = self.precision_sum, self.precision_rows
        versions = (sums._version, rows._version)  # noqa: SLF001
        kept = self._factor
        if kept is None or kept.sums is not sums or kept.versions != versions:
            kept = self._factor = _Factor(sums, versions, torch.linalg.cholesky(self.precision()))
        return kept.lower_TRR

    def __getstate__(self) -> dict[str, Any]:
        """Leave the factor out of copies: their tensors count versions anew."""
        return {**self.__dict__, "_factor": None}
