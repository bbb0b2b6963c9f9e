"""AUC of a stream in bounded memory: a histogram of scores that adapts to them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lfm4ads.core.ranks import Array, Ranks
from lfm4ads.metrics.delong import AucEstimate, estimate_auc
from lfm4ads.metrics.rows import ScoredRows, State, scored_rows, sort_keys

_MIN_FLUSH_ROWS = 2**18


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Rows counted by score."""

    keys: npt.NDArray[np.uint32]
    """(B,) strictly ascending."""
    positives: npt.NDArray[np.int64]
    """(B,)."""
    negatives: npt.NDArray[np.int64]
    """(B,)."""


class ScoreHistogram:
    """Counts of positives and negatives by score; float32 scores of any scale and range will do.

    A score's key is its float32 bit pattern, mapped so that keys sort as scores do. Up to
    ``capacity`` distinct keys the histogram is exact. Beyond, keys lose low bits: as few as let the
    distinct ones fit. Only bins that hold rows count, so a model whose probabilities all lie
    between 0.001 and 0.002 gets as many as one that fills [0, 1]; fixed bins of the probability
    are off by 0.09 there.

    The number of lost bits never falls as rows come and depends on the set of scores alone, so the
    bins of a stream are the same bit for bit in whatever order, batches or ranks it came.
    """

    def __init__(self, *, capacity: int = 2**17) -> None:
        if capacity < 2:
            raise ValueError(f"capacity must be at least 2 bins, got {capacity}")
        self.capacity = capacity
        self._shift = 0
        self._bins = _NO_BINS
        self._pending: list[ScoredRows] = []
        self._num_pending = 0

    def update(self, logits: Array, *, labels: Array) -> None:
        """Count a batch: logits (N,) and labels (N,) of 0 and 1."""
        self.add(scored_rows(logits, labels=labels))

    def add(self, rows: ScoredRows) -> None:
        """Count rows that are checked already."""
        self._pending.append(rows)
        self._num_pending += len(rows)
        # Folding costs a pass over the bins, so wait until the rows outnumber them.
        if self._num_pending >= max(_MIN_FLUSH_ROWS, 4 * len(self._bins.keys)):
            self._flush()

    def merge(self, other: "ScoreHistogram") -> None:
        """Count the rows of another histogram of the same capacity."""
        if other.capacity != self.capacity:
            raise ValueError(f"cannot merge capacities {self.capacity} and {other.capacity}")
        theirs = other.bins()
        self._flush()
        self._fit(max(self._shift, other.shift))
        self._fold(_coarsen(theirs, shift=self._shift - other.shift))

    def bins(self) -> Bins:
        """Return the counts of all rows so far."""
        self._flush()
        return self._bins

    @property
    def shift(self) -> int:
        """Low bits that keys have lost; 0 means that the histogram is exact."""
        self._flush()
        return self._shift

    def estimate(self) -> AucEstimate | None:
        """Return AUC, DeLong variance and 95 % interval, or None unless both classes have rows."""
        bins = self.bins()
        return estimate_auc(bins.positives, negatives=bins.negatives)

    def auc(self) -> float | None:
        """Return the AUC, ties counted half, or None unless both classes have rows."""
        estimate = self.estimate()
        return estimate.auc if estimate else None

    def auc_error_bound(self) -> float | None:
        """Return how far ``auc`` can be off: half the share of pairs in one bin, 0 while exact."""
        bins = self.bins()
        pairs = float(bins.positives.sum()) * float(bins.negatives.sum())
        if pairs == 0:
            return None
        return (
            0.5 * float(bins.positives @ bins.negatives.astype(np.float64)) / pairs
            if self._shift
            else 0.0
        )

    def state(self) -> State:
        """Return everything as arrays."""
        bins = self.bins()
        return {
            "keys": bins.keys,
            "positives": bins.positives,
            "negatives": bins.negatives,
            "shift": np.array([self._shift], dtype=np.int64),
            "capacity": np.array([self.capacity], dtype=np.int64),
        }

    @classmethod
    def from_state(cls, state: State) -> "ScoreHistogram":
        """Return the histogram that ``state`` was taken from."""
        histogram = cls(capacity=int(state["capacity"][0]))
        histogram._shift = int(state["shift"][0])
        histogram._bins = Bins(**{name: state[name] for name in ("keys", "positives", "negatives")})
        return histogram

    def reduce_to_first(self, ranks: Ranks) -> "ScoreHistogram":
        """Return on rank 0 the histogram of all ranks' rows (elsewhere, of some). Collective.

        Ranks meet in pairs, so none ever holds more than a few histograms.
        """
        union = ScoreHistogram.from_state(self.state())
        stride = 1
        while stride < ranks.world:
            place = ranks.rank % (2 * stride)
            receiver = ranks.rank - stride if place == stride else None
            received = _send(ranks, union.state(), receiver=receiver)
            if place == 0 and ranks.rank + stride < ranks.world:
                union.merge(ScoreHistogram.from_state(received[ranks.rank + stride]))
            stride *= 2
        return union

    def _flush(self) -> None:
        if not self._num_pending:
            return
        logits = np.concatenate([rows.logits for rows in self._pending])
        labels = np.concatenate([rows.labels for rows in self._pending])
        self._pending, self._num_pending = [], 0
        self._fold(_count(sort_keys(logits) >> np.uint32(self._shift), labels=labels))

    def _fold(self, bins: Bins) -> None:
        self._bins = _union(self._bins, bins)
        self._fit(self._shift)

    def _fit(self, shift: int) -> None:
        """Lose bits down to ``shift``, and more until the bins fit."""
        self._bins = _coarsen(self._bins, shift=shift - self._shift)
        self._shift = shift
        if len(self._bins.keys) > self.capacity:
            lost = _lost_bits(self._bins.keys, capacity=self.capacity)
            self._bins = _coarsen(self._bins, shift=lost)
            self._shift += lost


_NO_BINS = Bins(
    keys=np.empty(0, np.uint32), positives=np.empty(0, np.int64), negatives=np.empty(0, np.int64)
)


def _count(keys: npt.NDArray[np.uint32], *, labels: npt.NDArray[np.bool_]) -> Bins:
    """Count unsorted keys (N,), N >= 1, by label; dense ones without sorting, the slow part."""
    least = keys.min()
    span = int(keys.max() - least) + 1
    if span > 4 * len(keys):
        positives, negatives = (
            np.unique(keys[chosen], return_counts=True) for chosen in (labels, ~labels)
        )
        return _union(
            Bins(keys=positives[0], positives=positives[1], negatives=np.zeros_like(positives[1])),
            Bins(keys=negatives[0], positives=np.zeros_like(negatives[1]), negatives=negatives[1]),
        )
    offsets = keys - least
    rows = np.bincount(offsets, minlength=span)
    positive = np.bincount(offsets[labels], minlength=span)
    filled = np.flatnonzero(rows)
    positives = positive[filled]
    return Bins(
        keys=filled.astype(np.uint32) + least,
        positives=positives,
        negatives=rows[filled] - positives,
    )


def _union(one: Bins, other: Bins) -> Bins:
    if not len(one.keys) or not len(other.keys):
        return one if len(one.keys) else other
    keys = np.concatenate([one.keys, other.keys])
    order = np.argsort(keys, kind="stable")  # a merge, since it finds the two sorted runs
    return _add_equal(
        Bins(
            keys=keys[order],
            positives=np.concatenate([one.positives, other.positives])[order],
            negatives=np.concatenate([one.negatives, other.negatives])[order],
        )
    )


def _coarsen(bins: Bins, *, shift: int) -> Bins:
    if shift == 0 or not len(bins.keys):
        return bins
    return _add_equal(
        Bins(keys=bins.keys >> np.uint32(shift), positives=bins.positives, negatives=bins.negatives)
    )


def _add_equal(bins: Bins) -> Bins:
    """Add up bins whose keys are equal neighbours; keys (B,) ascend, B >= 1."""
    starts = np.flatnonzero(np.concatenate([[True], bins.keys[1:] != bins.keys[:-1]]))
    return Bins(
        keys=bins.keys[starts],
        positives=np.add.reduceat(bins.positives, starts),
        negatives=np.add.reduceat(bins.negatives, starts),
    )


def _lost_bits(keys: npt.NDArray[np.uint32], *, capacity: int) -> int:
    """Return the fewest low bits to lose so that ascending keys leave at most ``capacity``."""

    def num_left(lost: int) -> int:
        shifted = keys >> np.uint32(lost)
        return 1 + int(np.count_nonzero(shifted[1:] != shifted[:-1]))

    return next(lost for lost in range(32) if num_left(lost) <= capacity)


def _send(ranks: Ranks, state: State, *, receiver: int | None) -> list[State]:
    """Send ``state`` to one rank and return by rank what came here."""
    received: list[State] = [{} for _ in range(ranks.world)]
    for name, column in state.items():
        parts = [column if rank == receiver else column[:0] for rank in range(ranks.world)]
        for sender, part in enumerate(ranks.exchange(parts)):
            received[sender][name] = part
    return received
