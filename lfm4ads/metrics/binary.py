"""Every figure of one binary task and one set of rows, gathered over batches and ranks."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lfm4ads.core.ranks import Array, Ranks
from lfm4ads.metrics.delong import AucEstimate
from lfm4ads.metrics.grouped_auc import GroupedAuc
from lfm4ads.metrics.rows import ScoredRows, State, scored_rows
from lfm4ads.metrics.score_histogram import ScoreHistogram


@dataclass(frozen=True, kw_only=True)
class BinaryFigures:
    """What reports say of a set of rows; a figure that its rows do not define is None."""

    auc: float | None
    auc_low: float | None
    auc_high: float | None
    """95 % interval by DeLong, rows taken as independent."""
    gauc: float | None
    """AUC within a user, averaged over users with both classes, weighted by their rows."""
    log_loss: float | None
    """Nats a row."""
    normalized_entropy: float | None
    """Log loss over that of always predicting the observed rate: 1 is knowing nothing, 0 all."""
    calibration: float | None
    """Mean predicted probability over the observed rate."""
    rows: int
    positives: int
    auc_error_bound: float | None
    """How far ``auc`` can be from the exact value because scores share bins."""
    gauc_users_ratio: float
    """Share of users that ``gauc`` was taken over."""


def figures_json(figures: BinaryFigures) -> dict[str, float | int | None]:
    """Return the figures that ``report.json`` holds; None becomes null."""
    return {
        "auc": figures.auc,
        "auc_low": figures.auc_low,
        "auc_high": figures.auc_high,
        "gauc": figures.gauc,
        "log_loss": figures.log_loss,
        "normalized_entropy": figures.normalized_entropy,
        "calibration": figures.calibration,
        "rows": figures.rows,
        "positives": figures.positives,
    }


class BinaryMetrics:
    """Sums, histogram and rows from which ``reduce`` makes the figures.

    Counts and AUC do not depend on order, batches or ranks at all; log loss, calibration and GAUC
    are sums of floats and agree to about 1e-15.
    """

    def __init__(self, *, capacity: int = 2**17, max_rows: int = 16_000_000) -> None:
        self.histogram = ScoreHistogram(capacity=capacity)
        self.grouped = GroupedAuc(max_rows=max_rows)
        self.counts = np.zeros(2, dtype=np.int64)
        """Rows and positives."""
        self.sums = np.zeros((2, 2))
        """(log loss, predicted probability) x (sum, what rounding has lost of it)."""

    def update(self, logits: Array, *, labels: Array, users: Array) -> None:
        """Take in a batch: logits (N,), labels (N,) of 0 and 1, integer user keys (N,)."""
        rows = scored_rows(logits, labels=labels)
        self.grouped.add(rows, users=users)
        self.histogram.add(rows)
        self.counts += np.array([len(rows), np.count_nonzero(rows.labels)])
        self._add_sums(_sums(rows))

    def merge(self, other: "BinaryMetrics") -> None:
        """Take in the rows of another accumulator."""
        self.histogram.merge(other.histogram)
        self.grouped.merge(other.grouped)
        self.counts += other.counts
        for part in other.sums.T:
            self._add_sums(part)

    def state(self) -> State:
        """Return everything as arrays, so that a stopped evaluation can go on."""
        return {
            "counts": self.counts.copy(),
            "sums": self.sums.copy(),
            **{f"histogram.{name}": array for name, array in self.histogram.state().items()},
            **{f"grouped.{name}": array for name, array in self.grouped.state().items()},
        }

    @classmethod
    def from_state(cls, state: State) -> "BinaryMetrics":
        """Return the accumulator that ``state`` was taken from."""
        metrics = cls()
        metrics.histogram = ScoreHistogram.from_state(_part(state, prefix="histogram."))
        metrics.grouped = GroupedAuc.from_state(_part(state, prefix="grouped."))
        metrics.counts, metrics.sums = state["counts"].copy(), state["sums"].copy()
        return metrics

    def reduce(self, ranks: Ranks) -> BinaryFigures:
        """Return the figures of the rows of all ranks, the same on every rank. Collective."""
        rows, positives = (int(count) for count in ranks.sum(self.counts))
        log_loss_sum, probability_sum = (
            math.fsum(parts)
            for parts in np.concatenate(ranks.gather(self.sums.T[None])).reshape(-1, 2).T
        )
        union = self.histogram.reduce_to_first(ranks)
        auc, low, high, bound = _from_first(ranks, values=_auc_values(union))
        grouped = self.grouped.reduce(ranks)
        log_loss = log_loss_sum / rows if rows else None
        entropy = _entropy(positives, rows=rows)
        return BinaryFigures(
            auc=auc,
            auc_low=low,
            auc_high=high,
            gauc=grouped.gauc,
            log_loss=log_loss,
            normalized_entropy=log_loss / entropy if log_loss is not None and entropy else None,
            calibration=probability_sum / positives if positives else None,
            rows=rows,
            positives=positives,
            auc_error_bound=bound,
            gauc_users_ratio=grouped.users_ratio,
        )

    def _add_sums(self, values: npt.NDArray[np.float64]) -> None:
        """Add to both sums, keeping rounding errors (Knuth's TwoSum): a job adds millions."""
        total = self.sums[:, 0] + values
        moved = total - self.sums[:, 0]
        self.sums[:, 1] += (self.sums[:, 0] - (total - moved)) + (values - moved)
        self.sums[:, 0] = total


def _sums(rows: ScoredRows) -> npt.NDArray[np.float64]:
    """Return [log loss, predicted probability] summed over rows, in float64, never overflowing."""
    logits = rows.logits.astype(np.float64)
    decay = np.exp(-np.abs(logits))
    # log(1 + exp(z)) = max(z, 0) + log(1 + exp(-|z|)), z being the logit of the class not observed.
    missed = np.where(rows.labels, -logits, logits)
    loss = np.maximum(missed, 0.0) + np.log1p(decay)
    probability = np.where(logits >= 0.0, 1.0, decay) / (1.0 + decay)
    return np.array([loss.sum(), probability.sum()])


def _entropy(positives: int, *, rows: int) -> float | None:
    """Return the entropy of the observed rate in nats a row, None unless both classes have rows."""
    if not 0 < positives < rows:
        return None
    rate = positives / rows
    return -rate * math.log(rate) - (1.0 - rate) * math.log1p(-rate)


def _auc_values(histogram: ScoreHistogram) -> list[float | None]:
    estimate: AucEstimate | None = histogram.estimate()
    if estimate is None:
        return [None, None, None, None]
    return [estimate.auc, estimate.low, estimate.high, histogram.auc_error_bound()]


def _from_first(ranks: Ranks, *, values: list[float | None]) -> list[float | None]:
    """Return rank 0's values on every rank."""
    row = np.array([[math.nan if value is None else value for value in values]])
    first = ranks.gather(row if ranks.is_first else row[:0])[0][0]
    return [None if math.isnan(value) else float(value) for value in first]


def _part(state: State, *, prefix: str) -> State:
    return {
        name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)
    }
