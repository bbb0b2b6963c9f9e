"""What is chosen as one: a column, or all columns of a block or field.

Dimension key: P columns, U units, K chosen columns.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lfm4ads.core.errors import UserError
from lfm4ads.selection.columns import Ints

FEW = 256
"""Values up to which sorting them all is the fastest."""
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Units:
    """A partition of the columns, in order of the labels of the units."""

    labels_U: npt.NDArray[Any]
    unit_P: Ints
    """Unit of every column."""
    order_P: Ints
    """Columns sorted by unit."""
    start_U: Ints
    width_U: Ints
    always_U: Flags
    """Units in every fit."""
    banned_U: Flags
    """Units in no fit: all their columns are constant."""
    plain: bool
    """Whether every unit is one column."""

    @property
    def num_units(self) -> int:
        """Return how many units there are."""
        return len(self.width_U)

    @property
    def max_size(self) -> int:
        """Return the number of units that may be in a fit."""
        return int(self.num_units - self.banned_U.sum())

    def columns(self, units_K: Ints) -> Ints:
        """Return the columns of units, unit after unit."""
        if self.plain:
            return units_K
        pieces = [
            self.order_P[self.start_U[unit] : self.start_U[unit] + self.width_U[unit]]
            for unit in units_K.tolist()
        ]
        return np.concatenate([np.zeros(0, np.int64), *pieces])


def build_units(
    num_columns: int,
    *,
    groups: npt.ArrayLike | None = None,
    always: npt.ArrayLike = (),
    constant_P: Flags | None = None,
) -> Units:
    """Return the units of a label per column; columns of a label need not be neighbours.

    ``always`` names labels, or columns where there are no groups.
    """
    labels = np.arange(num_columns) if groups is None else np.asarray(groups)
    if labels.shape != (num_columns,):
        raise UserError(
            f"groups has {labels.shape[0] if labels.ndim else 0} labels for {num_columns} columns;"
            " give one label per column"
        )
    if groups is None:
        labels_U, unit_P = labels, labels
    else:
        labels_U, unit_P = np.unique(labels, return_inverse=True)
    width_U = np.bincount(unit_P, minlength=len(labels_U))
    constant_P = np.zeros(num_columns, bool) if constant_P is None else constant_P
    moving_U = np.bincount(unit_P, ~constant_P, minlength=len(labels_U))
    always_U = _find_always(labels_U, always)
    banned_U = moving_U == 0
    if np.any(always_U & banned_U):
        label = labels_U[np.flatnonzero(always_U & banned_U)[0]]
        raise UserError(f"column {label} is constant and cannot be always included; leave it out")
    return Units(
        labels_U,
        unit_P,
        np.argsort(unit_P, kind="stable"),
        np.cumsum(width_U) - width_U,
        width_U,
        always_U,
        banned_U,
        bool(np.all(width_U == 1)) and groups is None,
    )


def narrow_units(units: Units, kept_P: Ints) -> Units:
    """Return the units of some of the columns, all of every unit they touch."""
    labels = units.labels_U[units.unit_P[kept_P]]
    narrow = build_units(len(kept_P), groups=labels, always=units.labels_U[units.always_U])
    banned_U = units.banned_U[np.unique(units.unit_P[kept_P])]
    return replace(narrow, plain=units.plain, banned_U=banned_U)


def _find_always(labels_U: npt.NDArray[Any], always: npt.ArrayLike) -> Flags:
    wanted = np.atleast_1d(np.asarray(always))
    if not wanted.size:
        return np.zeros(len(labels_U), bool)
    unknown = wanted[~np.isin(wanted, labels_U)]
    if len(unknown):
        raise UserError(
            f"always_include names {unknown[0]}, which is no {'column or group'}; known are"
            f" {labels_U[0]} to {labels_U[-1]}"
        )
    return np.isin(labels_U, wanted)


def pick_largest(values_U: npt.NDArray[np.float64], size: int) -> Ints:
    """Return the indices of the largest values, ascending; of equal ones the lower indices."""
    if size >= len(values_U):
        return np.arange(len(values_U))
    if size <= 0:
        return np.zeros(0, dtype=np.int64)
    if len(values_U) <= FEW:
        return np.sort((-values_U).argsort(kind="stable")[:size])
    threshold = -np.partition(-values_U, size - 1)[size - 1]
    above = np.flatnonzero(values_U > threshold)
    equal = np.flatnonzero(values_U == threshold)
    return np.sort(np.concatenate([above, equal[: size - len(above)]]))
