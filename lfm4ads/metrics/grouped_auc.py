"""GAUC of a stream over ranks: exact while the rows fit, then over a fair sample of users."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lfm4ads.core.ranks import Array, Ranks
from lfm4ads.data.hashing import mix64
from lfm4ads.metrics.rows import ScoredRows, State, check_users, scored_rows, sort_keys

_ROW = np.dtype([("user", "<u8"), ("logit", "<f4"), ("label", "?")])
"""13 bytes; ``user`` is a mixed key, which is as good as the key because mixing is a bijection."""
_BLOCK_ROWS = 2**18
_PART_ROWS = 2**20
_SALT = np.int64(0x6A09E667F3BCC908)
"""Makes the sample independent of other uses of the mixed key, such as the rank that has a user."""

Rows = npt.NDArray[np.void]


@dataclass(frozen=True, kw_only=True)
class GroupedFigures:
    """GAUC and what it stands on."""

    gauc: float | None
    """Mean over users of their AUC weighted by their rows; None when no user has both classes."""
    num_users: int
    """Users with both classes."""
    num_rows: int
    """Rows of those users."""
    users_ratio: float
    """Share of all users that were kept and looked at; 1.0 means that the GAUC is exact."""


class GroupedAuc:
    """Keeps rows (13 bytes each) to the end of the stream: a user's rows may lie on any rank.

    When the job holds more than ``max_rows`` rows, half of the users are dropped with all their
    rows, by a hash of their key, and again until the rest fits. Who stays depends on the set of
    rows alone, so the GAUC is the same in whatever order, batches or ranks they came.
    """

    def __init__(self, *, max_rows: int = 16_000_000) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {max_rows}")
        self.max_rows = max_rows
        self.halvings = 0
        """Times half of the users was dropped."""
        self._blocks: list[Rows] = []
        self._pending: list[Rows] = []
        self._num_pending = 0
        self._num_rows = 0

    def update(self, logits: Array, *, labels: Array, users: Array) -> None:
        """Keep a batch: logits (N,), labels (N,) of 0 and 1, integer user keys (N,)."""
        self.add(scored_rows(logits, labels=labels), users=users)

    def add(self, rows: ScoredRows, *, users: Array) -> None:
        """Keep rows that are checked already."""
        keys = check_users(users, num_rows=len(rows))
        packed = np.empty(len(rows), dtype=_ROW)
        packed["user"] = mix64(keys ^ _SALT)
        packed["logit"], packed["label"] = rows.logits, rows.labels
        self._append(_sampled(packed, halvings=self.halvings))

    def merge(self, other: "GroupedAuc") -> None:
        """Keep the rows of another accumulator of the same ``max_rows``."""
        if other.max_rows != self.max_rows:
            raise ValueError(f"cannot merge max_rows {self.max_rows} and {other.max_rows}")
        self._sample(max(self.halvings, other.halvings))
        for block in other.blocks():
            self._append(_sampled(block, halvings=self.halvings))

    def blocks(self) -> list[Rows]:
        """Return the rows kept, in blocks."""
        if self._num_pending:
            self._blocks.append(np.concatenate(self._pending))
            self._pending, self._num_pending = [], 0
        return self._blocks

    def state(self) -> State:
        """Return everything as arrays."""
        rows = np.concatenate([np.empty(0, dtype=_ROW), *self.blocks()])
        return {
            "users": np.ascontiguousarray(rows["user"]),
            "logits": np.ascontiguousarray(rows["logit"]),
            "labels": np.ascontiguousarray(rows["label"]),
            "halvings": np.array([self.halvings], dtype=np.int64),
            "max_rows": np.array([self.max_rows], dtype=np.int64),
        }

    @classmethod
    def from_state(cls, state: State) -> "GroupedAuc":
        """Return the accumulator that ``state`` was taken from."""
        grouped = cls(max_rows=int(state["max_rows"][0]))
        grouped.halvings = int(state["halvings"][0])
        rows = np.empty(len(state["users"]), dtype=_ROW)
        rows["user"], rows["logit"], rows["label"] = (
            state["users"],
            state["logits"],
            state["labels"],
        )
        grouped._append(rows)
        return grouped

    def reduce(self, ranks: Ranks) -> GroupedFigures:
        """Return the GAUC of the rows of all ranks, the same on every rank. Collective.

        Users go in parts, each user to one rank, so that beside the rows kept a rank needs room for
        about a million rows only (or one user's, if that is more).
        """
        num_rows = self._agree_on_sample(ranks)
        num_parts = 1
        while num_parts * ranks.world * _PART_ROWS < num_rows:
            num_parts *= 2
        sums = np.zeros(3)
        for part in range(num_parts):
            sums += _sums_by_user(self._route(ranks, part=part, num_parts=num_parts))
        weighted, weight, num_users = np.sum(ranks.gather(sums[None]), axis=0)[0]
        return GroupedFigures(
            gauc=float(weighted / weight) if weight else None,
            num_users=int(num_users),
            num_rows=int(weight),
            users_ratio=0.5**self.halvings,
        )

    def _append(self, rows: Rows) -> None:
        self._pending.append(rows)
        self._num_pending += len(rows)
        self._num_rows += len(rows)
        if self._num_pending >= _BLOCK_ROWS:
            self.blocks()
        while self._num_rows > self.max_rows:
            self._sample(self.halvings + 1)

    def _sample(self, halvings: int) -> None:
        if halvings == self.halvings:
            return
        self.halvings = halvings
        self._blocks = [_sampled(block, halvings=halvings) for block in self.blocks()]
        self._num_rows = sum(len(block) for block in self._blocks)

    def _agree_on_sample(self, ranks: Ranks) -> int:
        """Drop users until ranks keep the same share and all rows fit; return the job's rows."""
        self._sample(max(int(halvings[0]) for halvings in ranks.gather(np.array([self.halvings]))))
        while (num_rows := int(ranks.sum(np.array([self._num_rows]))[0])) > self.max_rows:
            self._sample(self.halvings + 1)
        return num_rows

    def _route(self, ranks: Ranks, *, part: int, num_parts: int) -> Rows:
        """Return the rows, from all ranks, of this rank's users in one part."""
        mask = np.uint64(num_parts - 1)
        blocks = [block[(block["user"] >> np.uint64(32)) & mask == part] for block in self.blocks()]
        rows = np.concatenate([np.empty(0, dtype=_ROW), *blocks])
        owners = rows["user"] % np.uint64(ranks.world)
        parts = [rows[owners == rank] for rank in range(ranks.world)]
        return np.concatenate(ranks.exchange(parts))


def _sampled(rows: Rows, *, halvings: int) -> Rows:
    if halvings == 0:
        return rows
    if halvings > 63:
        return rows[:0]
    return rows[rows["user"] < np.uint64(1 << (64 - halvings))]


def _sums_by_user(rows: Rows) -> npt.NDArray[np.float64]:
    """Return [sum n_u * AUC_u, sum n_u, count] over users u with both classes and n_u rows."""
    if not len(rows):
        return np.zeros(3)
    _, user = np.unique(rows["user"], return_inverse=True)
    # One integer that sorts by user, then score; a user's number takes less than 31 bits.
    order = (user.astype(np.uint64) << np.uint64(33)) | (
        sort_keys(rows["logit"]).astype(np.uint64) << np.uint64(1)
    )
    order |= rows["label"]
    order.sort()
    positive = (order & np.uint64(1)).astype(np.int64)
    ties = _run_starts(order >> np.uint64(1))
    positives = np.add.reduceat(positive, ties)
    negatives = np.diff(ties, append=len(order)) - positives
    users = _run_starts(order[ties] >> np.uint64(33))
    num_positives = np.add.reduceat(positives, users)
    num_negatives = np.add.reduceat(negatives, users)
    below = np.cumsum(negatives) - negatives
    # Twice the pairs in order, from counts within the whole part less those of users before.
    twice = (
        np.add.reduceat(positives * (2 * below + negatives), users)
        - 2 * num_positives * below[users]
    )
    both = (num_positives > 0) & (num_negatives > 0)
    num_positives, num_negatives = num_positives[both], num_negatives[both]
    weight = num_positives + num_negatives
    auc = twice[both] / (2.0 * num_positives * num_negatives)
    return np.array([weight @ auc, weight.sum(), len(weight)], dtype=np.float64)


def _run_starts(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    return np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
