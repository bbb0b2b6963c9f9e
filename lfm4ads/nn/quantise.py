"""Numbers to integer levels that keep their order, for numeral embeddings.

Dimension key: B rows, M rows of a sample, F number features, E edges between levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lfm4ads.core.errors import UserError

QuantiseKind = Literal["equal_frequency", "log", "integer"]
Float64s = npt.NDArray[np.float64]


class Quantiser(nn.Module):
    """Levels of standardised numbers: how many fitted edges lie below a number.

    A feature arrives as (g(x) - mean) / std, where g is sign(x) * log(1 + |x|) if ``logs`` says so
    and else the identity. Every kind is a rising list of edges on that scale, so that each keeps
    order, and level k holds what is above edge k - 1 and not above edge k:

    - ``equal_frequency``: quantiles of the sample; equal ones count once, so that a common value
      fills one level and the next takes the next level;
    - ``log``: equal widths of sign(x) * log(1 + |x|) between the sample's least and greatest;
    - ``integer``: x rounded (halves down), counted from the sample's least, at most levels - 1.

    What lies outside the fitted range has the first or the last level. Edges are kept in float32,
    as the numbers come: integers above about 10^6 may share a level with their neighbours.
    """

    edges: Tensor
    fitted: Tensor

    def __init__(
        self,
        means: Sequence[float] | Float64s,
        stds: Sequence[float] | Float64s,
        logs: Sequence[bool],
        *,
        kinds: Sequence[QuantiseKind],
        levels: int,
    ) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"levels must be at least 2, got {levels}")
        if not len(means) == len(stds) == len(logs) == len(kinds):
            raise ValueError(
                "means, stds, logs and kinds must name the same features, got"
                f" {len(means)}, {len(stds)}, {len(logs)} and {len(kinds)} of them"
            )
        self.levels = levels
        self._scales = [
            _Scale(mean=float(mean), std=float(std), log=bool(log))
            for mean, std, log in zip(means, stds, logs, strict=True)
        ]
        self._kinds = tuple(kinds)
        self.register_buffer("edges", torch.full((len(kinds), levels - 1), torch.inf))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self._seen_fitted = False

    def fit(self, sample_MF: np.ndarray) -> None:
        """Set the edges from standardised numbers (M, F) of training days only, NaN = missing.

        Days that are evaluated must not be among them, and every rank must give the same sample.
        A feature that is missing in all of it has one level, 0.
        """
        edges_FE = np.full(self.edges.shape, np.inf, dtype=np.float32)
        for feature, (kind, scale) in enumerate(zip(self._kinds, self._scales, strict=True)):
            # Edges of values that are equal in float32 must be equal too.
            known_M = sample_MF[:, feature].astype(np.float32).astype(np.float64)
            known_M = known_M[np.isfinite(known_M)]
            if len(known_M):
                edges_E = _edges(known_M, kind=kind, scale=scale, levels=self.levels)
                edges_FE[feature, : len(edges_E)] = edges_E
        self.edges.copy_(torch.from_numpy(edges_FE))
        self.fitted.fill_(value=True)

    def forward(self, x_BF: Tensor) -> Tensor:
        """Return int64 levels (B, F) in 0..levels-1 of standardised numbers; -1 where NaN."""
        if not self._seen_fitted:  # asked of the device once, not at every step
            self._refuse_unfitted()
        level_FB = torch.searchsorted(self.edges, x_BF.t().contiguous())
        return torch.where(x_BF.isnan(), -1, level_FB.t())

    def _refuse_unfitted(self) -> None:
        if not self.fitted:
            raise UserError(
                f"the quantiser of {len(self._kinds)} number features has no levels yet; fit it on"
                " the training days or load a checkpoint that has them",
                everywhere=True,
            )
        self._seen_fitted = True


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """How one feature's numbers were standardised, and back, in float64."""

    mean: float
    std: float
    log: bool

    def raw(self, x_M: Float64s) -> Float64s:
        """Undo the standardisation and the logarithm."""
        inner_M = x_M * self.std + self.mean
        return _signed_exp(inner_M) if self.log else inner_M

    def logged(self, x_M: Float64s) -> Float64s:
        """Return sign(x) * log(1 + |x|) of the raw number x."""
        inner_M = x_M * self.std + self.mean
        return inner_M if self.log else _signed_log(inner_M)

    def from_raw(self, raw_E: Float64s) -> Float64s:
        """Standardise raw numbers."""
        return ((_signed_log(raw_E) if self.log else raw_E) - self.mean) / self.std

    def from_logged(self, logged_E: Float64s) -> Float64s:
        """Standardise numbers given by their logarithm."""
        return ((logged_E if self.log else _signed_exp(logged_E)) - self.mean) / self.std


def _edges(known_M: Float64s, *, kind: QuantiseKind, scale: _Scale, levels: int) -> Float64s:
    """Return at most levels - 1 rising edges of one feature on the standardised scale."""
    inner = np.arange(1, levels)
    match kind:
        case "equal_frequency":
            # Edges that are values of the sample: a level ends at one and never splits equals.
            at_E = np.quantile(known_M, inner / levels, method="inverted_cdf")
            return _rising(at_E, below=known_M.max())
        case "log":
            least, greatest = scale.logged(np.array([known_M.min(), known_M.max()]))
            at_E = least + (greatest - least) * inner / levels
            return _rising(scale.from_logged(at_E), below=known_M.max())
        case "integer":
            least = np.round(scale.raw(known_M)).min()
            return scale.from_raw(least + inner - 0.5)


def _rising(edges_E: Float64s, *, below: float) -> Float64s:
    unique_E = np.unique(edges_E)
    return unique_E[unique_E < below]


def _signed_log(x_M: Float64s) -> Float64s:
    return np.sign(x_M) * np.log1p(np.abs(x_M))


def _signed_exp(x_M: Float64s) -> Float64s:
    return np.sign(x_M) * np.expm1(np.abs(x_M))
