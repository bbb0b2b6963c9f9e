"""Work through an upstream run's items: train, validate, settle, score, keep a checkpoint."""

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lfm4ads.core.errors import StoppedError
from lfm4ads.core.log import MetricsLog, log
from lfm4ads.core.ranks import Ranks
from lfm4ads.core.signals import StopSignal
from lfm4ads.data.batch import Batch
from lfm4ads.data.reader import Reader
from lfm4ads.model.lfm import Lfm
from lfm4ads.nn.tables import looked_up
from lfm4ads.shard.saver import Saver
from lfm4ads.shard.sharded import Sharded
from lfm4ads.shard.state import load_sharded
from lfm4ads.train.diagnose import explain_not_finite, refuse_not_finite
from lfm4ads.train.explore import ExploreConfig
from lfm4ads.train.gates import log_gates
from lfm4ads.train.idlog import log_ids
from lfm4ads.train.loop import Fault, agreed, progress, train_pass
from lfm4ads.train.objective import Objective
from lfm4ads.train.scorer import Scorer, joint_logits
from lfm4ads.train.scores import Figures, ScoreFile, Scores, figure_rows, mean_auc, score_pass
from lfm4ads.train.spectra import log_spectra
from lfm4ads.train.upstream import Item, Position, Work

LAST, PREVIOUS, BEST = "last", "previous", "best"
"""Checkpoints of mid-day, the newest and the one before it, and of the best base pass."""


@dataclass(frozen=True, kw_only=True)
class Daily:
    """One upstream run under way."""

    sharded: Sharded
    work: Work
    position: Position
    trainer: Reader
    """Gives labels as known at the end of the row's day."""
    scorer: Reader
    """Gives final labels."""
    objective: Objective
    explore: ExploreConfig
    batch_size: int
    seed: int
    monitor: str
    output: Path
    meta: dict[str, Any]
    """What every checkpoint says of the run."""
    metrics: MetricsLog
    saver: Saver
    save_every_steps: int
    write_scores: bool
    """Write the scores of every day that is scored before it is trained on."""
    stop: StopSignal
    spectra_every_days: int = 0
    """Log the information abundance of tables at the checkpoint of every so many days; 0: never."""

    @property
    def ranks(self) -> Ranks:
        """The job."""
        return self.sharded.ranks

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.output / "checkpoints"

    @property
    def model(self) -> Lfm:
        """The model without its wrappers."""
        model = self.sharded.model.module
        assert isinstance(model, Lfm)
        return model

    def run(self) -> None:
        """Do every item from the position on; what is being written is on the disk at the end."""
        self.objective.between.load(self.position.between)
        try:
            while self.position.index < len(self.work.items):
                self._do_or_save(self.work.items[self.position.index])
            self.saver.wait()
        finally:
            self.saver.close()

    def _do_or_save(self, item: Item) -> None:
        try:
            self._do(item)
        except StoppedError:
            # A pass that only scores has moved no weight: what was trained before it is kept.
            if item.kind in ("validate", "score"):
                self._save(LAST, day=item.day)
                self.saver.wait()
            raise

    def _do(self, item: Item) -> None:
        match item.kind:
            case "train" | "late":
                self._train(item)
            case "validate":
                self._validate(item)
            case "score":
                self._score_before_training(item.day)
            case "settle":
                if self.work.valid_days:
                    self.saver.wait()
                    best = load_sharded(self.checkpoints / BEST, self.sharded)
                    self.objective.between.load(best["position"]["between"])
                    self.model.drop_observed()
                self._keep(item.day)
            case "keep":
                self._keep(item.day)

    def _next(self, index: int | None = None) -> None:
        self.position.index = self.position.index + 1 if index is None else index
        self.position.step = 0

    def _train(self, item: Item) -> None:
        position = self.position
        total, first = self.trainer.num_steps(item.day), position.step
        batches = self.trainer.day(item.day, epoch=item.epoch, start_step=first)
        started = time.monotonic()
        chosen = self._tasks(item)

        def loss(batch: Batch) -> Tensor:
            batch = self._labels_of(batch, chosen)
            output = self.sharded.model(batch)
            if self.model.observes_steps:
                self.model.observe(output, batch)
            return self.objective(
                output.logits,
                batch,
                step=position.total_steps,
                pairs_BT2=joint_logits(output),
                looked=partial(looked_up, self.model),
            )

        def after_step(fault: Fault) -> None:
            position.step += 1
            position.total_steps += 1
            due = self.save_every_steps and position.total_steps % self.save_every_steps == 0
            if due and position.step < total:
                self.ranks.agree(fault.error)
                self._save(LAST, day=item.day)

        done = train_pass(
            self.sharded,
            progress(batches, total=total - first, words=f"train {item.day}", ranks=self.ranks),
            loss=loss,
            explain=lambda batch: explain_not_finite(
                self.sharded, batch, self.trainer.dataset.schema
            ),
            batch_size=self.batch_size,
            stop=self.stop,
            after_step=after_step,
            seed=hash((self.seed, position.index)),
            first_step=first,
            first_total_step=position.total_steps,
        )
        if done.stopped:
            self._save(LAST, day=item.day)
            self.saver.wait()
            raise StoppedError(
                f"stopped by a signal at step {position.total_steps}, which is saved; run the same"
                " command to go on",
                everywhere=True,
            )
        rate = done.rows / (time.monotonic() - started)
        late = f"late {', '.join(chosen)}"
        which = late if item.kind == "late" else f"pass {item.epoch + 1}"
        log.info("day %d %s: loss %.4f a row, %.0f rows/s", item.day, which, done.loss, rate)
        step = position.total_steps
        self.metrics.write("loss", done.loss, step=step, split="train", unit="nats/row")
        self.metrics.write("rate", rate, step=step, split="train", unit="rows/s")
        self.objective.between.log_day(self.metrics, step=step)
        log_ids(self.sharded, self.metrics, words=f"day {item.day}", step=step, split="train")
        self._next()

    def _tasks(self, item: Item) -> Sequence[str]:
        return tuple(self.trainer.dataset.schema.tasks) if item.tasks is None else item.tasks

    def _labels_of(self, batch: Batch, tasks: Sequence[str]) -> Batch:
        """Return the batch with the labels of some tasks alone."""
        known = [float(task in tasks) for task in self.trainer.dataset.schema.tasks]
        return replace(batch, masks=batch.masks * torch.tensor(known, device=self.ranks.device))

    def _validate(self, item: Item) -> None:
        position = self.position
        figures = self._score(self.work.valid_days)
        self._note(figures, split="valid", day=item.day)
        auc = mean_auc(figures, monitor=self.monitor)
        best = max(auc, position.best)
        log.info("base pass %d: validation AUC %.4f (best %.4f)", item.epoch + 1, auc, best)
        if auc > position.best:
            position.best, position.best_epoch = auc, item.epoch
            self._next()
            self._save(BEST, day=item.day)
        else:
            self._next(self.work.settle_at())

    def _keep(self, day: int) -> None:
        self._observe()
        done = self.work.items[: self.position.index + 1]
        kept = sum(item.kind in ("settle", "keep") for item in done)
        if self.spectra_every_days and kept % self.spectra_every_days == 0:
            step = self.position.total_steps
            log_spectra(self.sharded, self.metrics, step=step, split=f"day:{day}")
        self._next()
        self._save(f"day={day}", day=day)

    def _score_before_training(self, day: int) -> None:
        figures = self._score((day,), write=self.write_scores)
        self._note(figures, split="prequential", day=day)
        words = ", ".join(
            f"{task} {one.auc:.4f}"
            for (task, where), one in figures.items()
            if where == "all" and one.auc is not None
        )
        log.info("day %d scored before training: AUC %s", day, words)
        self._next()

    def _score(self, days: tuple[int, ...], *, write: bool = False) -> Figures:
        schema = self.scorer.dataset.schema
        seed = hash((self.seed, self.position.total_steps))
        scorer = Scorer(self.sharded, self.objective, schema, explore=self.explore, seed=seed)
        scores = Scores(schema, schema.binary_tasks)
        self.sharded.model.eval()
        for day in days:
            if write:
                self._clear_scores(day)
            with ExitStack() as stack:
                sinks = [scores.update]
                if write:
                    name = f"scores/day={day}/part-{self.ranks.rank:05d}.parquet"
                    path = self.output / name
                    file = ScoreFile(
                        path, schema, schema.binary_tasks, extras=scorer.extras, stack=stack
                    )
                    sinks.append(file.update)
                batches = progress(
                    self.scorer.day(day),
                    total=self.scorer.num_steps(day),
                    words=f"score {day}",
                    ranks=self.ranks,
                )
                forward = scorer.full if write else scorer.logits
                score_pass(batches, forward=forward, sinks=sinks, ranks=self.ranks)
        mass = self.position.gates = scorer.gates.reduce(self.ranks)
        log_gates(mass, self.metrics, step=self.position.total_steps, split=f"day:{days[-1]}")
        return scores.reduce(self.ranks)

    def _clear_scores(self, day: int) -> None:
        """Remove what a run on more ranks may have left of a day it did not finish."""
        with self.ranks.together():
            if self.ranks.is_first:
                shutil.rmtree(self.output / f"scores/day={day}", ignore_errors=True)

    @torch.no_grad()
    def _observe(self) -> None:
        """Let heads with a variance know the labels trained on since the last day's checkpoint."""
        if not self.model.observes or self.model.observes_steps:
            return
        self.sharded.model.eval()
        for item in self.work.passes_since_kept(self.position.index):
            for batch in agreed(self.trainer.day(item.day), ranks=self.ranks):
                if batch is None:
                    break
                moved = self._labels_of(batch.to(self.ranks.device), self._tasks(item))
                self.model.observe(self.sharded.model(moved), moved)

    def _note(self, figures: Figures, *, split: str, day: int) -> None:
        rows = figure_rows(figures, split=split)
        self.position.figures += [{"day": day, **row} for row in rows]
        for (task, scenario), one in figures.items():
            name = f"auc/{task}/{scenario}"
            step = self.position.total_steps
            self.metrics.write(name, one.auc, step=step, split=f"{split}:{day}")

    def _save(self, name: str, *, day: int) -> None:
        refuse_not_finite(self.sharded)
        self.position.between = self.objective.between.state()
        seen = max(day, *self.work.valid_days, 0) if name.startswith("day=") else 0
        meta = {**self.meta, "day": day, "seen_through": seen, "position": asdict(self.position)}
        if self.model.observes:
            # What this rank alone has observed is in no checkpoint.
            self.model.settle(self.ranks.sum)
        former = PREVIOUS if name == LAST else ""
        rolling = "day=*" if name.startswith("day=") else ""
        self.saver.save(self.checkpoints / name, meta=meta, former=former, rolling=rolling)
