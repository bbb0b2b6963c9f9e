"""How much a row's labels weigh: balance of domains and tasks, and repeated exposures.

Dimension key: B rows, D domains, S scenarios, T tasks.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema
from lfm4ads.train.loop import agreed

Balance = Literal["none", "domain", "task"]


@dataclass(frozen=True, kw_only=True)
class RepeatConfig:
    """Repeated-exposure weighting (arXiv 2403.00793, section 6): later exposures teach less.

    The paper's formula is not public; ours is 1 / n^gamma for exposure n = 1, 2, ..., divided by
    its mean.
    """

    feature: str = ""
    """Number feature that counts the exposures before the row's; null is none. Empty: all rows
    weigh the same."""
    gamma: float = 0.5
    negatives_only: bool = False
    """Positives keep weight 1. This moves the rates that are learnt; ``Objective.correction`` moves
    them back."""

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise ValueError(f"repeat.gamma must be at least 0, got {self.gamma}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """What was counted on the first training day, from which weights are made for all days."""

    labels_DST: npt.NDArray[np.int64]
    """Labelled rows."""
    positives_DST: npt.NDArray[np.int64]
    """Labelled rows whose label is above one half."""
    rows: int
    repeat_mean: float
    """Mean of 1 / n^gamma over the rows."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint's meta."""
        return {
            "labels": self.labels_DST.tolist(),
            "positives": self.positives_DST.tolist(),
            "rows": self.rows,
            "repeat_mean": self.repeat_mean,
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Survey":
        """Return what ``to_dict`` was called on."""
        return Survey(
            labels_DST=np.array(values["labels"], dtype=np.int64),
            positives_DST=np.array(values["positives"], dtype=np.int64),
            rows=values["rows"],
            repeat_mean=values["repeat_mean"],
        )


def take_survey(
    batches: Iterable[Batch], *, schema: Schema, repeat: RepeatConfig, ranks: Ranks
) -> Survey:
    """Count labels and exposures over all ranks. Collective.

    Args:
        batches: This rank's share of the first training day, read as in training. Later days must
            not decide: weights that change from day to day would be another loss each day.
        schema: Names of domains, scenarios, tasks and numbers.
        repeat: Whose weights to average.
        ranks: The job.

    Raises:
        UserError: a batch could not be read, or ``repeat`` names no number; on every rank.
    """
    check_repeat(repeat, schema=schema)
    shape = (len(schema.domains), len(schema.scenarios), len(schema.tasks))
    counts = np.zeros((2, *shape), dtype=np.int64)
    rows, total = 0, 0.0
    for batch in agreed(batches, ranks=ranks):
        if batch is None:
            break
        valid = batch.valid
        at = batch.domain[valid].numpy(), batch.scenario[valid].numpy()
        labelled = (batch.masks > 0)[valid].numpy()
        positive = labelled & (batch.labels > 0.5)[valid].numpy()
        np.add.at(counts[0], at, labelled)
        np.add.at(counts[1], at, positive)
        rows += int(valid.sum())
        total += repeat_weight(batch, repeat=repeat, schema=schema)[valid].sum().item()
    labels, positives = ranks.sum(counts)
    num_rows, sum_weights = ranks.sum(np.array([rows, total]))
    return Survey(
        labels_DST=labels,
        positives_DST=positives,
        rows=int(num_rows),
        repeat_mean=float(sum_weights / num_rows) if num_rows else 1.0,
    )


def balance_weights(survey: Survey, *, balance: Balance) -> npt.NDArray[np.float64]:
    """Return factors (D, T) that give every domain, or every (domain, task), equal label mass.

    The mass of all labels stays what it was. What had no label in the survey keeps weight 1.
    """
    labels_DT = survey.labels_DST.sum(axis=1)
    match balance:
        case "none":
            return np.ones(labels_DT.shape)
        case "domain":
            mass_DT = np.broadcast_to(labels_DT.sum(axis=1, keepdims=True), labels_DT.shape)
            parts = np.count_nonzero(mass_DT[:, 0])
        case "task":
            mass_DT = labels_DT
            parts = np.count_nonzero(mass_DT)
    share = labels_DT.sum() / max(parts, 1)
    return np.where(mass_DT > 0, share / np.maximum(mass_DT, 1), 1.0)


def check_repeat(repeat: RepeatConfig, *, schema: Schema) -> None:
    """Refuse a feature that is no number; on every rank, since all read one config."""
    numbers = schema.select(kind="number")
    if repeat.feature and repeat.feature not in numbers:
        raise UserError(
            f"loss.repeat.feature is {repeat.feature}, but the features of kind number are"
            f" {', '.join(numbers) or 'none'}; name the one that counts earlier exposures",
            everywhere=True,
        )


def exposure_index(batch: Batch, *, feature: str, schema: Schema) -> Tensor:
    """Return n >= 1 (B,): one more than the raw value of a standardised number, 1 where null."""
    spec = schema.features[feature]
    scaled_B = batch.numbers[:, schema.select(kind="number").index(feature)]
    before_B = scaled_B * spec.std + spec.mean
    if spec.log:
        before_B = before_B.sign() * before_B.abs().expm1()
    return 1 + torch.nan_to_num(before_B, nan=0.0).clamp(min=0)


def repeat_weight(batch: Batch, *, repeat: RepeatConfig, schema: Schema) -> Tensor:
    """Return 1 / n^gamma (B,), not yet divided by its mean; 1 without a feature."""
    if not repeat.feature:
        return torch.ones_like(batch.valid, dtype=torch.float32)
    return exposure_index(batch, feature=repeat.feature, schema=schema) ** -repeat.gamma
