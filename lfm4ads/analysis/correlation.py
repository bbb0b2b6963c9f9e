"""Feature correlation: what behaviours and pairs of fields say of a label, and what a model learnt.

The ground truth is mutual information in bits between a label and an indicator, from integer counts
that one pass over rows collects and ranks merge by addition. The learnt correlation is that of a
Temporal Interest Module (arXiv 2403.00793, section on feature correlation; arXiv 2308.08487).

Dimension key: B rows, V behaviours of all rows on end, T target categories, C behaviour categories,
P positions, Y outcomes (0, 1), F fields, S pairs of fields, R buckets of a field, K width of an
embedding.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def mutual_information(joint: npt.NDArray[Any]) -> Doubles:
    """Return I(X; Y) in bits (...) of tables of counts (..., X, Y); 0 where nothing was counted.

    A cell without rows adds nothing; the public script puts 1e-5 rows there.
    """
    total = joint.sum((-2, -1), keepdims=True)
    p = joint / np.maximum(total, 1)
    independent = p.sum(-1, keepdims=True) * p.sum(-2, keepdims=True)
    ratio = np.divide(p, independent, out=np.ones_like(p), where=p > 0)
    return np.maximum((p * np.log2(ratio)).sum((-2, -1)), 0.0)


def chance_information(joint: npt.NDArray[Any]) -> Doubles:
    """Return what ``mutual_information`` finds on average where X says nothing of Y, in bits.

    (rows of the table that occur - 1) (columns that occur - 1) / (2 n ln 2), the mean of the
    likelihood ratio's chi-square.
    """
    free_X, free_Y = (np.maximum((joint.sum(axis) > 0).sum(-1) - 1, 0) for axis in (-1, -2))
    total = np.maximum(joint.sum((-2, -1)), 1)
    return free_X * free_Y / (2 * total * np.log(2))


class BehaviourCounts:
    """Counts of (target category, behaviour category, position, label) over rows.

    A position is relative to the target: the most recent behaviour has the first. A category that
    is not counted makes its row (as target) or itself (as behaviour) be left out.
    """

    def __init__(self, targets: Ints, behaviours: Ints, *, positions: int) -> None:
        """``targets`` (T,) and ``behaviours`` (C,) are the categories that are counted."""
        self.targets, self.behaviours = np.unique(targets), np.unique(behaviours)
        self.positions = positions
        shape = (len(self.targets), len(self.behaviours), positions, 2)
        self._seen_TCPY = np.zeros(shape, dtype=np.int64)
        self._rows_TY = np.zeros((len(self.targets), 2), dtype=np.int64)

    def add(
        self, target_B: Ints, values_V: Ints, lengths_B: Ints, label_B: npt.NDArray[np.bool_]
    ) -> None:
        """Count rows; behaviours are oldest first, row by row, ``lengths_B`` of them each."""
        row_B = _place(self.targets, target_B)
        counted_B = row_B >= 0
        np.add.at(self._rows_TY, (row_B[counted_B], label_B[counted_B].astype(int)), 1)
        owner_V = np.repeat(np.arange(len(lengths_B)), lengths_B)
        position_V = np.cumsum(lengths_B)[owner_V] - 1 - np.arange(len(values_V))
        column_V = _place(self.behaviours, values_V)
        kept_V = (column_V >= 0) & counted_B[owner_V] & (position_V < self.positions)
        owner_V = owner_V[kept_V]
        cell = (row_B[owner_V], column_V[kept_V], position_V[kept_V], label_B[owner_V].astype(int))
        np.add.at(self._seen_TCPY, cell, 1)

    def arrays(self) -> tuple[Ints, Ints]:
        """Return what ranks add up: counts (T, C, P, Y) with the behaviour, and of rows (T, Y)."""
        return self._seen_TCPY, self._rows_TY


def _place(known: Ints, values: Ints) -> Ints:
    """Return the place of each value among sorted known ones, -1 where it is none of them."""
    at = np.minimum(np.searchsorted(known, values), max(len(known) - 1, 0))
    return np.where(known[at] == values, at, -1) if len(known) else np.full(len(values), -1)


def behaviour_information(seen_TCPY: Ints, rows_TY: Ints) -> Doubles:
    """Return I(behaviour of a category stands at a position; label), given the target's category.

    (T, C, P) in bits, from the counts of all ranks.
    """
    without = rows_TY[:, None, None] - seen_TCPY
    return mutual_information(np.stack([without, seen_TCPY], axis=-2))


class FieldCounts:
    """Counts of (bucket of a field, bucket of another, label) over rows, for every pair of fields.

    Buckets bound memory; a field with more values than buckets shares them by hash.
    """

    def __init__(self, names: tuple[str, ...], *, buckets: int = 16) -> None:
        self.names = names
        self.buckets = buckets
        self.pairs = [
            (one, other) for one in range(len(names)) for other in range(one + 1, len(names))
        ]
        self._joint = np.zeros((len(self.pairs), buckets * buckets, 2), dtype=np.int64)

    def add(self, fields: Mapping[str, Ints], label_B: npt.NDArray[np.bool_]) -> None:
        """Count rows; each field has a bucket (B,) in [0, buckets)."""
        outcome_B = label_B.astype(np.int64)
        size = self.buckets
        for at, (one, other) in enumerate(self.pairs):
            cell_B = fields[self.names[one]] * size + fields[self.names[other]]
            counts = np.bincount(cell_B * 2 + outcome_B, minlength=2 * size * size)
            self._joint[at] += counts.reshape(-1, 2)

    def array(self) -> Ints:
        """Return what ranks add up: counts (S, R * R, Y)."""
        return self._joint


def field_information(joint: Ints) -> Doubles:
    """Return I((field, other field); label) of every pair (S,) in bits, above that of chance."""
    return np.maximum(mutual_information(joint) - chance_information(joint), 0.0)


def learned_correlation(
    behaviour_CK: Doubles, target_TK: Doubles, positions_QK: Doubles, *, scale: float
) -> Doubles:
    """Return what a Temporal Interest Module makes of a behaviour and its position, per target.

    Cor = exp(z) |r| with z = scale <e + p_i, v + p_0> and r = (e + p_i) * (v + p_0); as in the
    public script z is standardised over the matrix of a target, and exp(z) becomes a softmax over
    it. (T, C, P).

    Args:
        behaviour_CK: Embeddings of behaviour categories.
        target_TK: Embeddings of target categories.
        positions_QK: Of positions: the target's, then the most recent behaviour's, and so on
            (P + 1, K); zeros for a model without positions.
        scale: 1 / sqrt(K) of the model's attention.
    """
    event_CPK = behaviour_CK[:, None] + positions_QK[None, 1:]
    asked_TK = target_TK + positions_QK[0]
    z_TCP = scale * np.einsum("cpk,tk->tcp", event_CPK, asked_TK)
    length_TCP = np.sqrt(np.einsum("cpk,tk->tcp", event_CPK**2, asked_TK**2))
    spread = z_TCP.std((1, 2), keepdims=True)
    z_TCP = (z_TCP - z_TCP.mean((1, 2), keepdims=True)) / np.where(spread > 0, spread, 1.0)
    share_TCP = np.exp(z_TCP)
    return share_TCP / share_TCP.sum((1, 2), keepdims=True) * length_TCP


def unit_range(values: Doubles) -> Doubles:
    """Return values from 0 for the smallest to 1 for the largest; zeros where all are equal."""
    span = values.max() - values.min()
    return (values - values.min()) / (span if span > 0 else 1.0)


def spearman(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Return the correlation of ranks, ties sharing their mean; NaN where one does not vary."""
    ranks = [_ranks(values.reshape(-1)) for values in (one, other)]
    spreads = [values - values.mean() for values in ranks]
    sizes = [float(np.sqrt((values**2).sum())) for values in spreads]
    product = sizes[0] * sizes[1]
    return float((spreads[0] * spreads[1]).sum() / product) if product else float("nan")


def _ranks(values: npt.NDArray[Any]) -> Doubles:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
