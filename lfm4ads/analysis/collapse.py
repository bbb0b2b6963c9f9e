"""Dimensional collapse: how many directions of their space tables use, from Gram matrices alone.

A table of D rows is never decomposed: its singular values are the roots of the eigenvalues of
E^T E, a sum over rows that blocks, ranks and weights enter by addition (arXiv 2310.04400;
arXiv 2403.00793, section on dimensional collapse).

Dimension key: C rows of a block, D rows of a table, K its width, J width of a projection, N fields,
W summed width of all fields.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Doubles = npt.NDArray[np.float64]
Sum = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""Adds equal arrays of all ranks."""


class GramSums:
    """E^T E of one table: raw, with rows of length 1, and with rows weighted by their traffic."""

    def __init__(self, dim: int, *, weights: Sequence[str] = ()) -> None:
        """``weights`` name the ways rows are weighted, such as the features that look them up."""
        self._sums = {name: torch.zeros(dim, dim, dtype=torch.float64) for name in _names(weights)}

    def add(self, rows_CK: Tensor, *, weights: dict[str, Tensor] | None = None) -> None:
        """Add whole rows of any float type, with their weights (C,) by name."""
        wide_CK = rows_CK.double()
        length_C1 = wide_CK.norm(dim=1, keepdim=True)
        # A row of zeros has no direction and stays one.
        unit_CK = wide_CK / torch.where(length_C1 > 0, length_C1, 1.0)
        self._put("raw", wide_CK, wide_CK)
        self._put("normalised", unit_CK, unit_CK)
        for name, weight_C in (weights or {}).items():
            self._put(f"by {name}", wide_CK, wide_CK * weight_C.double().to(wide_CK)[:, None])

    def _put(self, name: str, left_CK: Tensor, right_CK: Tensor) -> None:
        found = left_CK.T @ right_CK
        self._sums[name] = self._sums[name].to(found.device) + found

    def merged(self, over_ranks: Sum) -> dict[str, Doubles]:
        """Return the Gram matrices (K, K) of the whole table by name. Collective if the sum is."""
        return {name: over_ranks(gram.cpu().numpy()) for name, gram in self._sums.items()}


def _names(weights: Iterable[str]) -> list[str]:
    return ["raw", "normalised", *(f"by {name}" for name in weights)]


def singular_values(gram_KK: Doubles) -> Doubles:
    """Return the singular values (K,) of E from E^T E, largest first.

    Those below 1e-8 of the largest are lost in the rounding of float64.
    """
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram_KK)[::-1], 0.0))


def abundance(values_K: Doubles) -> float:
    """Return information abundance from singular values: their sum over the largest.

    NaN for a table of zeros, which has no direction.
    """
    largest = values_K.max()
    return float(values_K.sum() / largest) if largest else float("nan")


@dataclass(frozen=True)
class Spectrum:
    """What a Gram matrix says of its table."""

    values_K: Doubles
    abundance: float


def spectrum(gram_KK: Doubles) -> Spectrum:
    """Return singular values and information abundance."""
    values_K = singular_values(gram_KK)
    return Spectrum(values_K, abundance(values_K))


def random_spectrum(rows: int, dim: int, *, seed: int) -> Spectrum:
    """Return the spectrum of a table of this shape with independent normal cells.

    It is drawn without the table: by Bartlett's decomposition its Gram matrix is L L^T, where L is
    lower triangular with standard normals below a diagonal of roots of chi-squares with rows,
    rows - 1, ... degrees of freedom. Independent cells of another distribution agree in the limit
    of many rows.
    """
    draws = np.random.default_rng(seed)
    if rows < dim:
        return spectrum(_gram(draws.standard_normal((rows, dim))))
    lower_KK = np.tril(draws.standard_normal((dim, dim)), -1)
    lower_KK[np.diag_indices(dim)] = np.sqrt(draws.chisquare(rows - np.arange(dim)))
    return spectrum(lower_KK @ lower_KK.T)


def _gram(matrix_DK: Doubles) -> Doubles:
    return matrix_DK.T @ matrix_DK


def project_gram(gram_KK: Doubles, weight_JK: npt.NDArray[Any]) -> Doubles:
    """Return the Gram matrix (J, J) of E W^T: a projected table needs no pass over its rows."""
    weight_JK = weight_JK.astype(np.float64)
    return weight_JK @ gram_KK @ weight_JK.T


@dataclass(frozen=True)
class Projected:
    """Sub-embeddings E_i^{i->j} of every field i towards every field j of a cross layer."""

    abundance_NN: Doubles
    """Source by destination; NaN where the source has no table."""
    strength_NN: Doubles
    """Frobenius norm of W_{i->j}."""


def projected(
    weight_WW: npt.NDArray[Any], grams: Sequence[Doubles | None], *, dims: Sequence[int]
) -> Projected:
    """Return the information abundance of each field as each other field sees it.

    Args:
        weight_WW: Of a cross layer x -> W x over all fields side by side: the block of source i is
            the columns of i, and of it the rows of j go to destination j.
        grams: Of every field's table, None for a field that has none.
        dims: Widths of the fields.
    """
    edges = np.concatenate([[0], np.cumsum(dims)])
    if weight_WW.shape != (edges[-1], edges[-1]):
        raise ValueError(f"a weight {weight_WW.shape} does not fit fields of widths {list(dims)}")
    fields = range(len(dims))
    abundance_NN = np.full((len(dims), len(dims)), np.nan)
    strength_NN = np.zeros((len(dims), len(dims)))
    for source in fields:
        for target in fields:
            block = weight_WW[edges[target] : edges[target + 1], edges[source] : edges[source + 1]]
            strength_NN[source, target] = np.linalg.norm(block)
            gram = grams[source]
            if gram is not None:
                abundance_NN[source, target] = spectrum(project_gram(gram, block)).abundance
    return Projected(abundance_NN, strength_NN)


def sub_abundance(gram_KK: Doubles | None, weight_JK: npt.NDArray[Any] | None) -> float:
    """Return the information abundance of E W^T, of E without a weight; NaN without a table."""
    if gram_KK is None:
        return float("nan")
    return spectrum(gram_KK if weight_JK is None else project_gram(gram_KK, weight_JK)).abundance


def pair_strength(
    one_KK: Doubles | None, other_KK: Doubles | None, form_KK: npt.NDArray[Any]
) -> float:
    """Return the root mean square of u^T M v where u and v are drawn independently.

    E (u^T M v)^2 = tr(M E[v v^T] M^T E[u u^T]): no pass over pairs of rows. Ours in the place of
    |r| mean |<u, v>| of the FwFM's authors. NaN where a field has no table.

    Args:
        one_KK: E[u u^T].
        other_KK: E[v v^T].
        form_KK: M, with u on its left.
    """
    if one_KK is None or other_KK is None:
        return float("nan")
    square = np.trace(form_KK @ other_KK @ form_KK.T @ one_KK)
    return float(np.sqrt(max(square, 0.0)))
