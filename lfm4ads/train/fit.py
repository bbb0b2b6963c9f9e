"""Train on some days until validation stops improving, and score days."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lfm4ads.core.errors import StoppedError
from lfm4ads.core.log import MetricsLog
from lfm4ads.core.signals import StopSignal
from lfm4ads.data.attach import RepsReader
from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema
from lfm4ads.shard.sharded import Sharded
from lfm4ads.shard.state import copy_weights, put_weights
from lfm4ads.train.diagnose import explain_not_finite
from lfm4ads.train.idlog import log_ids
from lfm4ads.train.loop import Pass, progress, train_pass
from lfm4ads.train.scores import Figures, ScoreFile, Scores, score_pass, weighted_scenario_auc


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long a downstream model trains."""

    max_epochs: int = 10
    patience: int = 1
    """Epochs without a better validation AUC before it stops; the best epoch's weights are kept."""
    monitor: str = ""
    """Task whose AUC, averaged over scenarios by positives, decides; empty: the first of tasks."""
    rolling: bool = False
    """After the fit go on day by day: score a day, then train on it once, as a live model does. The
    figures of the test days are those scores."""

    def __post_init__(self) -> None:
        if self.max_epochs < 1 or self.patience < 1:
            raise ValueError("fit.max_epochs and fit.patience must be at least 1")


@dataclass(frozen=True)
class Fitted:
    """How a fit went."""

    best_epoch: int
    rows: int
    """Rows trained on, over all ranks and epochs."""
    seconds: float
    """Time spent training, scoring left out."""


def fit_best(
    sharded: Sharded,
    days: Sequence[int],
    *,
    max_epochs: int,
    patience: int,
    train_day: Callable[[int, int, int], Pass],
    judge: Callable[[int], float],
) -> Fitted:
    """Train until ``judge`` stops improving, and keep the weights it liked best.

    Args:
        sharded: The model.
        days: Of an epoch, in order.
        max_epochs: At most so many.
        patience: Epochs without a better judgement before it stops.
        train_day: From (day, epoch, steps before) to what the pass did.
        judge: The larger the better, after each epoch.
    """
    best, best_epoch, weights = -1.0, -1, copy_weights(sharded)
    rows, steps, seconds = 0, 0, 0.0
    for epoch in range(max_epochs):
        started = time.monotonic()
        for day in days:
            done = train_day(day, epoch, steps)
            rows, steps = rows + done.rows, steps + done.steps
        seconds += time.monotonic() - started
        value = judge(epoch)
        if value > best:
            best, best_epoch, weights = value, epoch, copy_weights(sharded)
        elif epoch - best_epoch >= patience:
            break
    put_weights(sharded, weights)
    return Fitted(best_epoch, rows, seconds)


@dataclass(frozen=True, kw_only=True)
class Fitter:
    """A model with the readers it trains and is scored on."""

    sharded: Sharded
    schema: Schema
    tasks: Sequence[str]
    """Tasks in the order of the model's logits."""
    trainer: RepsReader
    scorer: RepsReader
    loss: Callable[[Batch], Tensor]
    batch_size: int
    seed: int
    words: str
    """What progress bars call it."""

    def fit(
        self,
        config: FitConfig,
        *,
        train: Sequence[int],
        valid: Sequence[int],
        metrics: MetricsLog,
        stop: StopSignal,
    ) -> Fitted:
        """Train on the ``train`` days until the ``valid`` days stop improving; keep the best."""
        monitor = config.monitor or self.tasks[0]

        def train_day(day: int, epoch: int, steps: int) -> Pass:
            return self._train_day(
                day, epoch=epoch, first_total_step=steps, metrics=metrics, stop=stop
            )

        def judge(epoch: int) -> float:
            auc = weighted_scenario_auc(self.score(valid), task=monitor)
            metrics.write(f"monitor/{monitor}", auc, step=epoch, split="valid")
            return auc

        return fit_best(
            self.sharded,
            train,
            max_epochs=config.max_epochs,
            patience=config.patience,
            train_day=train_day,
            judge=judge,
        )

    def roll(
        self, days: Sequence[int], *, metrics: MetricsLog, stop: StopSignal
    ) -> Callable[[int], None]:
        """Return what ``score`` does after a day: train on it; go over ``days`` first.

        ``days`` are those between the fit and the first day that will be scored.
        """

        def train(day: int) -> None:
            self._train_day(day, epoch=0, first_total_step=0, metrics=metrics, stop=stop)

        for day in days:
            train(day)
        return train

    def score(
        self,
        days: Sequence[int],
        *,
        path: Path | None = None,
        then: Callable[[int], None] | None = None,
    ) -> Figures:
        """Return the figures of some days over all ranks; write this rank's scores to ``path``.

        ``then`` is called with each day after it was scored.
        """
        scores = Scores(self.schema, list(self.tasks))
        with ExitStack() as stack:
            sinks = [scores.update]
            if path is not None:
                file = ScoreFile(path, self.schema, list(self.tasks), stack=stack)
                sinks.append(file.update)
            for day in days:
                self.sharded.model.eval()
                score_pass(
                    self.scorer.day(day),
                    forward=self.sharded.model,
                    sinks=sinks,
                    ranks=self.sharded.ranks,
                )
                if then is not None:
                    then(day)
            with self.sharded.ranks.together():
                stack.close()
        return scores.reduce(self.sharded.ranks)

    def _train_day(
        self, day: int, *, epoch: int, first_total_step: int, metrics: MetricsLog, stop: StopSignal
    ) -> Pass:
        batches = progress(
            self.trainer.day(day, epoch=epoch),
            total=self.trainer.num_steps(day),
            words=f"{self.words} {day}",
            ranks=self.sharded.ranks,
        )
        done = train_pass(
            self.sharded,
            batches,
            loss=self.loss,
            explain=lambda batch: explain_not_finite(self.sharded, batch, self.schema),
            batch_size=self.batch_size,
            stop=stop,
            seed=hash((self.seed, epoch, day)),
            first_total_step=first_total_step,
        )
        if done.stopped:
            raise StoppedError(
                "stopped by a signal; run the same command to go on with the arms that are not"
                " finished",
                everywhere=True,
            )
        metrics.write(f"loss/{day}", done.loss, step=epoch, split="train", unit="nats/row")
        words = f"{self.words} {day}"
        log_ids(self.sharded, metrics, words=words, step=epoch, split=f"train:{day}")
        return done
