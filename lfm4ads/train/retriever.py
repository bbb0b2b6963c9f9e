"""One arm of Standalone Retrieval at work: its loss, its fit, its figures.

Dimension key: B rows of this rank, D width of the space of items.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lfm4ads.core.errors import StoppedError
from lfm4ads.core.log import MetricsLog
from lfm4ads.core.signals import StopSignal
from lfm4ads.data.attach import RepsReader
from lfm4ads.data.batch import Batch
from lfm4ads.data.reader import ReaderConfig
from lfm4ads.data.schema import Schema
from lfm4ads.model.retrieval import RetrievalConfig, RetrievalLoss, Retrieved
from lfm4ads.shard.sharded import ShardConfig, Sharded
from lfm4ads.train.diagnose import explain_not_finite
from lfm4ads.train.fit import Fitted, fit_best
from lfm4ads.train.loop import Pass, progress, train_pass
from lfm4ads.train.losses import masked_bce
from lfm4ads.train.popularity import PopularReader
from lfm4ads.train.retrieved import Json, Truth, evaluate, figure_of
from lfm4ads.train.scores import (
    Figures,
    ScoreFile,
    Scores,
    figure_rows,
    score_pass,
    weighted_scenario_auc,
)
from lfm4ads.train.softmax import Frequency, Rows, SoftmaxConfig, sampled_softmax
from lfm4ads.train.space import Space


@dataclass(frozen=True, kw_only=True)
class RetrievalFitConfig:
    """How long an arm trains."""

    max_epochs: int = 10
    patience: int = 1
    """Epochs without a better figure on the validation days before it stops; the best is kept."""
    monitor: Literal["recall", "auc"] = "recall"
    """recall of the largest of ks over the whole catalogue, or the scenarios' mean AUC."""

    def __post_init__(self) -> None:
        if self.max_epochs < 1 or self.patience < 1:
            raise ValueError("fit.max_epochs and fit.patience must be at least 1")


@dataclass(frozen=True, kw_only=True)
class RetrieverConfig:
    """What a run is; runs of one study differ in query and seed alone."""

    words: str
    """What progress bars call it."""
    query: tuple[str, ...]
    """Representations of the user; empty: two towers from scratch."""
    seed: int
    task: str
    ks: tuple[int, ...]
    first_day: int
    """First training day; representations keep the scale they have for it."""
    align_days: bool
    loss: RetrievalLoss
    softmax: SoftmaxConfig = field(default_factory=SoftmaxConfig)
    reader: ReaderConfig
    model: RetrievalConfig
    shard: ShardConfig


@dataclass(frozen=True, kw_only=True)
class Retriever:
    """A model with the readers it trains and is scored on, and the space it searches."""

    config: RetrieverConfig
    sharded: Sharded
    schema: Schema
    trainer: RepsReader | PopularReader
    scorer: RepsReader | PopularReader
    space: Space
    truth: Truth
    frequency: Frequency

    def fit(
        self,
        config: RetrievalFitConfig,
        *,
        train: Sequence[int],
        valid: Sequence[int],
        metrics: MetricsLog,
        stop: StopSignal,
    ) -> Fitted:
        """Train on the ``train`` days until the ``valid`` days stop improving; keep the best."""

        def train_day(day: int, epoch: int, steps: int) -> Pass:
            done = self._train_day(day, epoch=epoch, first_total_step=steps, stop=stop)
            metrics.write(f"loss/{day}", done.loss, step=epoch, split="train", unit="nats/row")
            return done

        def judge(epoch: int) -> float:
            value = self._monitor(config, valid)
            metrics.write(f"monitor/{config.monitor}", value, step=epoch, split="valid")
            return value

        return fit_best(
            self.sharded,
            train,
            max_epochs=config.max_epochs,
            patience=config.patience,
            train_day=train_day,
            judge=judge,
        )

    def score(self, days: Sequence[int], *, path: Path | None = None) -> Figures:
        """Return the figures of exposed rows over all ranks; write this rank's to ``path``."""
        tasks = [self.config.task]
        scores = Scores(self.schema, tasks)
        self.sharded.model.eval()
        with ExitStack() as stack:
            sinks = [scores.update]
            if path is not None:
                sinks.append(ScoreFile(path, self.schema, tasks, stack=stack).update)
            for day in days:
                score_pass(
                    self.scorer.day(day),
                    forward=lambda batch: self.sharded.model(batch).logits_B1,
                    sinks=sinks,
                    ranks=self.sharded.ranks,
                )
            with self.sharded.ranks.together():
                stack.close()
        return scores.reduce(self.sharded.ranks)

    def metric_rows(self, days: Sequence[int], *, split: str, path: Path) -> list[Json]:
        """Return ``score`` as rows of ``report.json``, without what a softmax does not estimate.

        Its scores order items; they are no logits of a probability.
        """
        rows = figure_rows(self.score(days, path=path), split=split)
        if self.config.loss == "bce":
            return rows
        undefined = dict.fromkeys(("log_loss", "normalized_entropy", "calibration"))
        return [row | undefined for row in rows]

    def retrieve(self, days: Sequence[int], *, split: str) -> list[Json]:
        """Return the figures of lists over the whole catalogue. Collective."""
        self.sharded.model.eval()
        return evaluate(
            self.space,
            self.truth,
            days=days,
            ks=self.config.ks,
            scenarios=len(self.schema.scenarios),
            split=split,
        )

    def _monitor(self, config: RetrievalFitConfig, valid: Sequence[int]) -> float:
        match config.monitor:
            case "auc":
                return weighted_scenario_auc(self.score(valid), task=self.config.task)
            case "recall":
                rows = self.retrieve(valid, split="valid")
                return figure_of(rows, k=max(self.config.ks), name="recall") or 0.0

    def _train_day(self, day: int, *, epoch: int, first_total_step: int, stop: StopSignal) -> Pass:
        ranks = self.sharded.ranks
        batches = progress(
            self.trainer.day(day, epoch=epoch),
            total=self.trainer.num_steps(day),
            words=f"{self.config.words} {day}",
            ranks=ranks,
        )
        done = train_pass(
            self.sharded,
            batches,
            loss=self._loss,
            explain=lambda batch: explain_not_finite(self.sharded, batch, self.schema),
            batch_size=self.config.reader.batch_size,
            stop=stop,
            seed=hash((self.config.seed, epoch, day)),
            first_total_step=first_total_step,
        )
        if done.stopped:
            raise StoppedError(
                "stopped by a signal; run the same command to go on with the arms that are not"
                " finished",
                everywhere=True,
            )
        return done

    def _loss(self, batch: Batch) -> Tensor:
        out: Retrieved = self.sharded.model(batch)
        column = list(self.schema.tasks).index(self.config.task)
        if self.config.loss == "bce":
            columns = torch.tensor([column], device=out.logits_B1.device)
            return masked_bce(out.logits_B1, batch, columns=columns)
        valid_B = batch.valid.float()
        liked_B = valid_B * batch.labels[:, column] * batch.masks[:, column]
        by_rows = self.config.softmax.candidates == "rows"
        log_q_B = torch.from_numpy(self.frequency.of(batch.item.cpu().numpy()))
        rows = Rows(
            query_BD=out.query_BD,
            item_BD=out.item_BD,
            key_B=batch.item,
            log_q_B=log_q_B.to(out.query_BD.device),
            drawn_B=valid_B if by_rows else liked_B,
            known_B=out.known_B,
            positive_B=liked_B,
        )
        return sampled_softmax(rows, logq=self.config.softmax.logq, ranks=self.sharded.ranks)
