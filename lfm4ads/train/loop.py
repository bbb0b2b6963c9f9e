"""The one training loop. It knows batches, a loss and ranks; everything else is passed in."""

import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lfm4ads.core.errors import StoppedError, UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.core.seed import seed_torch
from lfm4ads.core.signals import StopSignal
from lfm4ads.data.batch import Batch
from lfm4ads.shard.pipeline import Pipeline
from lfm4ads.shard.sharded import Sharded


@dataclass
class Pass:
    """What one pass over some batches did."""

    loss: float
    """Mean loss per row over all ranks."""
    steps: int
    rows: int
    """Rows over all ranks."""
    stopped: bool
    """A signal ended it early, after a whole step on every rank."""


class Fault:
    """What went wrong in a step on this rank, for ``agreed`` to raise on all before the next."""

    def __init__(self) -> None:
        self.error: UserError | None = None

    def note(self, sentence: str) -> None:
        """Remember it to be raised: a backward pass is collective, so a rank takes part in it yet.

        The next thing all ranks do together is to stop, and nothing is saved before.
        """
        self.error = UserError(sentence)


def agreed(
    batches: Iterable[Batch],
    *,
    ranks: Ranks,
    stop: StopSignal | None = None,
    fault: Fault | None = None,
) -> Iterator[Batch | None]:
    """Yield batches, or None and end when any rank was told to stop; one's error raises on all.

    One small all-reduce a step: without it a rank that fails leaves the others waiting in a
    collective. Without ``stop``, for a pass whose half is worth nothing, a signal raises
    ``StoppedError`` instead.
    """
    source = iter(batches)
    signalled = ranks.stop if stop is None else stop
    while True:
        error = fault.error if fault else None
        batch: Batch | None = None
        try:
            batch = next(source, None)
        except UserError as caught:
            error = error or caught
        flags = np.array([error is not None, signalled.is_set], dtype=np.int64)
        failed, stopped = ranks.sum(flags)
        if failed:
            ranks.agree(error)
        if stopped and stop is None:
            words = "stopped by a signal; run the same command to go on"
            raise StoppedError(words, everywhere=True)
        if stopped:
            yield None
            return
        if batch is None:
            return
        yield batch


def progress(batches: Iterable[Batch], *, total: int, words: str, ranks: Ranks) -> Iterator[Batch]:
    """Show steps done, rate and time left on rank 0 of a terminal; elsewhere stay quiet."""
    quiet = not (ranks.is_first and sys.stderr.isatty())
    yield from tqdm(batches, total=total, desc=words, unit="step", leave=False, disable=quiet)


def train_pass(  # noqa: PLR0913 - two stages learn here, each uses a part
    sharded: Sharded,
    batches: Iterable[Batch],
    *,
    loss: Callable[[Batch], Tensor],
    batch_size: int,
    explain: Callable[[Batch], str],
    stop: StopSignal | None = None,
    after_step: Callable[[Fault], None] | None = None,
    first_total_step: int = 0,
    seed: int = 0,
    first_step: int = 0,
) -> Pass:
    """Train on every batch once.

    Args:
        sharded: The model and its optimisers.
        batches: This rank's share; all ranks have equally many.
        loss: Loss of a batch, summed over its rows.
        batch_size: Rows of a global step on all ranks, by which the summed loss is divided.
        explain: Says where a loss that is not finite comes from.
        stop: When set on any rank, every rank leaves after the same step.
        after_step: Called after each step, on every rank; raise its fault together before saving.
        seed: Of dropout; each step draws from (seed, step, rank).
        first_total_step: Steps of the run before this pass, which decide the learning rates.
        first_step: Steps of this pass done before a restart, so that a resumed run draws the same.

    Raises:
        UserError: a batch could not be read, or the loss is no longer finite; on every rank.
    """
    ranks = sharded.ranks
    sharded.model.train()
    total = torch.zeros((), dtype=torch.float64, device=ranks.device)
    rows, steps, stopped, fault = 0, 0, False, Fault()

    def forward(batch: Batch) -> Tensor:
        ranks.at(f"training step {first_total_step + steps + 1}, day {batch.day}")
        seed_torch(seed, first_step + steps, ranks.rank)
        sharded.set_rates(first_total_step + steps)
        value = sharded.evaluate(loss, batch)
        if not torch.isfinite(value):
            step = first_total_step + steps + 1
            fault.note(f"the loss is not finite at step {step}, day {batch.day}: {explain(batch)}")
        total.add_(value.detach())
        return value * (ranks.world / batch_size)

    run = _overlapped if sharded.pipelined else _one_by_one
    watch = partial(agreed, ranks=ranks, stop=stop, fault=fault)
    with closing(run(sharded, batches, forward=forward, watch=watch)) as learned:
        for batch in learned:
            if batch is None:
                stopped = True
                break
            rows += int(batch.valid.sum())
            steps += 1
            if after_step is not None:
                after_step(fault)
    ranks.agree(fault.error)
    loss_sum, num_rows = ranks.sum(np.array([total.item(), rows]))
    return Pass(loss=loss_sum / max(num_rows, 1), steps=steps, rows=int(num_rows), stopped=stopped)


def _one_by_one(
    sharded: Sharded,
    batches: Iterable[Batch],
    *,
    forward: Callable[[Batch], Tensor],
    watch: Callable[[Iterable[Batch]], Iterator[Batch | None]],
) -> Generator[Batch | None, None, None]:
    """Yield each batch once it is learned; None when a signal ends the pass."""
    for batch in watch(batches):
        if batch is not None:
            sharded.step(forward(batch.to(sharded.ranks.device)))
        yield batch


def _overlapped(
    sharded: Sharded,
    batches: Iterable[Batch],
    *,
    forward: Callable[[Batch], Tensor],
    watch: Callable[[Iterable[Batch]], Iterator[Batch | None]],
) -> Generator[Batch | None, None, None]:
    """Do what ``_one_by_one`` does, with the next batch's ids on their way during a step.

    Batches are agreed upon two steps ahead and again, for faults and signals, before the last two;
    those on their way when a signal comes are dropped, and a resumed run reads them again.
    """
    pipeline, stopped = Pipeline(sharded, loss=forward), False
    try:
        for batch in watch(batches):
            stopped = batch is None
            if batch is not None:
                pipeline.push(batch)
            if batch is not None and pipeline.is_full:
                yield pipeline.step()
        for batch in watch(pipeline.waiting) if not stopped else ():
            stopped = batch is None
            if batch is not None:
                yield pipeline.step()
        if stopped:
            yield None
    finally:
        pipeline.close(settle=stopped)
