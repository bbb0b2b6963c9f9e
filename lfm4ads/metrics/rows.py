"""Scored rows: what every accumulator of this package takes in, checked once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lfm4ads.core.errors import UserError

Array = npt.NDArray[Any]
State = dict[str, Array]
"""What an accumulator saves: named arrays, none of them of objects."""

_SIGN = np.uint32(0x8000_0000)


@dataclass(frozen=True, kw_only=True)
class ScoredRows:
    """Rows that passed ``scored_rows``; the arrays are copies of their own, never written to."""

    logits: npt.NDArray[np.float32]
    """(N,) finite."""
    labels: npt.NDArray[np.bool_]
    """(N,)."""

    def __len__(self) -> int:
        return len(self.logits)


def scored_rows(logits: Array, *, labels: Array) -> ScoredRows:
    """Copy and check a batch, so that a diverged model stops the run instead of getting an AUC.

    Args:
        logits: (N,) real, finite once rounded to float32.
        labels: (N,) bool, or numbers that are all 0 or 1; the caller leaves out rows without one.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 1 or logits.shape != labels.shape:
        raise ValueError(
            f"logits {logits.shape} and labels {labels.shape} must be equally long vectors"
        )
    with np.errstate(over="ignore"):
        single = logits.astype(np.float32)
    _refuse(
        ~np.isfinite(single),
        values=logits,
        rule="a logit must be a finite float32; lower the learning rate",
    )
    positive = labels.astype(bool)
    if labels.dtype != np.bool_:
        _refuse(
            labels != positive,
            values=labels,
            rule="a label must be 0 or 1; drop rows that have none",
        )
    return ScoredRows(logits=single, labels=positive)


def sort_keys(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Return integers (N,) that sort and tie as the scores (N,) do; -0.0 is 0.0."""
    bits = np.ascontiguousarray(logits).view(np.uint32).copy()
    bits[bits == _SIGN] = 0  # integers, because float arithmetic may flush denormal scores to zero
    negative = (bits.view(np.int32) >> 31).view(np.uint32)
    return bits ^ (negative | _SIGN)


def check_users(users: Array, *, num_rows: int) -> npt.NDArray[np.int64]:
    """Return int64 user keys (N,), refusing floats, in which keys above 2^53 have merged."""
    users = np.asarray(users)
    if users.shape != (num_rows,):
        raise ValueError(f"users {users.shape} do not match {num_rows} rows")
    if users.dtype.kind not in "iu":
        raise UserError(f"user keys have type {users.dtype}, pass integers")
    return users.astype(np.int64)


def _refuse(bad: npt.NDArray[np.bool_], *, values: Array, rule: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise UserError(f"row {row} of the batch holds {values[row]}, but {rule}")
