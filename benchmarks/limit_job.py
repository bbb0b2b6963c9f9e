"""One job of ``benchmarks.limit``: stages and bare loops in turn, on the ranks it is started on.

- pretrain: the stage's own figure, over training the same model on one batch in memory.
- loop: ``train_pass`` on that batch, again and again, over the same.
- scoring: forward passes with all metrics, over forward passes alone.
- metrics: of three days that are trained on, two of them scored before, the main thread's CPU time
  without metrics and their log, over all of it.
- dump: a day from Parquet folded and written, over forward passes alone.
- transfer: the fit of an arm from Parquet, over training its model on one batch.

Forward passes go over some batches of the day: one would stay in the processor's cache.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.logs import FIRST_DAY
from lfm4ads.core.config import parse_config
from lfm4ads.core.log import MetricsLog
from lfm4ads.core.ranks import Ranks, open_ranks
from lfm4ads.data.batch import Batch
from lfm4ads.data.index import open_dataset
from lfm4ads.data.manifest import Header
from lfm4ads.data.reader import Reader, ReaderConfig
from lfm4ads.data.reps import write_snapshot
from lfm4ads.data.slots import Slots, groups_of, horizons_of
from lfm4ads.model.arm import DEFAULT_ARMS
from lfm4ads.model.downstream import DownstreamConfig
from lfm4ads.model.lfm import Lfm
from lfm4ads.shard.place import PlaceConfig
from lfm4ads.shard.sharded import ShardConfig, Sharded
from lfm4ads.stages import pretrain
from lfm4ads.train.arms import RunConfig, Sources, build_arm
from lfm4ads.train.fit import FitConfig
from lfm4ads.train.fold import Folding, Upstream, place_upstream
from lfm4ads.train.lineage import open_lineage
from lfm4ads.train.loop import train_pass
from lfm4ads.train.losses import masked_bce
from lfm4ads.train.scores import Scores, score_pass

ROWS_A_RANK = 4096
_HELD = 16
LATER = FIRST_DAY + 1
_PRETRAIN = """
model:
  tower: {rep_dim: 64, hidden: [256, 128]}
  mix: {hidden: [256, 128, 64]}
"""
Loss = Callable[[Batch], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A trained upstream on its ranks, and where everything lies."""

    folder: Path
    ranks: Ranks
    reader: Reader
    upstream: Upstream

    @property
    def steps(self) -> int:
        """Steps of a day."""
        return self.reader.num_steps(FIRST_DAY)

    @property
    def batch_size(self) -> int:
        """Rows of a step on all ranks."""
        return ROWS_A_RANK * self.ranks.world

    @property
    def rows(self) -> int:
        """Rows of a day."""
        return self.reader.dataset.rows(FIRST_DAY)

    def seconds(self, run: Callable[[], None]) -> float:
        """Return how long all ranks took."""
        self.ranks.barrier()
        started = time.perf_counter()
        run()
        self.ranks.barrier()
        return time.perf_counter() - started

    def some(self) -> list[Batch]:
        """Return this rank's first batches."""
        return [one for one, _ in zip(self.reader.day(FIRST_DAY), range(_HELD), strict=False)]


def pretrain_config(
    folder: Path, ranks: Ranks, *, output: str, last: int = FIRST_DAY
) -> pretrain.Config:
    """Return the config of the stage; days after the first are scored before they are learned."""
    batch = f"reader: {{batch_size: {ROWS_A_RANK * ranks.world}}}"
    paths = f"data: {folder / 'data'}\noutput: {folder / output}"
    days = f"days: {{first: {FIRST_DAY}, base_last: {FIRST_DAY}, last: {last}}}"
    return parse_config(pretrain.Config, f"{paths}\n{batch}\n{days}\n{_PRETRAIN}")


def loss_of(bench: Bench) -> Loss:
    """Return the upstream's loss of a batch."""
    return lambda batch: masked_bce(bench.upstream.sharded.model(batch).logits, batch)


def bare_rate(bench: Bench, sharded: Sharded, *, loss: Loss, batch: Batch) -> float:
    """Return rows a second of training on one batch."""
    sharded.model.train()

    def run() -> None:
        for _ in range(bench.steps):
            sharded.step(loss(batch) * (bench.ranks.world / bench.batch_size))

    return bench.steps * bench.batch_size / bench.seconds(run)


def forward_rate(bench: Bench, batches: list[Batch]) -> float:
    """Return rows a second of scoring batches in turn."""
    model = bench.upstream.sharded.model
    model.eval()

    def run() -> None:
        with torch.no_grad():
            for step in range(bench.steps):
                model(batches[step % len(batches)])

    return bench.steps * bench.batch_size / bench.seconds(run)


def pretrain_ratio(bench: Bench, batches: list[Batch]) -> float:
    """Run the stage and the bare loop."""
    config = pretrain_config(bench.folder, bench.ranks, output=f"again-{bench.ranks.world}")
    output = pretrain.run(config, bench.ranks)
    rate = json.loads((output / "report.json").read_text())["rows_per_second"]
    bench.ranks.barrier()
    if bench.ranks.is_first:
        shutil.rmtree(output)
    return rate / bare_rate(bench, bench.upstream.sharded, loss=loss_of(bench), batch=batches[0])


def loop_ratio(bench: Bench, batches: list[Batch]) -> float:
    """Run the loop and the bare loop on one batch."""

    def again() -> Iterator[Batch]:
        for _ in range(bench.steps):
            yield batches[0]

    def run() -> None:
        train_pass(
            bench.upstream.sharded,
            again(),
            loss=loss_of(bench),
            batch_size=bench.batch_size,
            explain=lambda _: "",
        )

    rate = bench.steps * bench.batch_size / bench.seconds(run)
    return rate / bare_rate(bench, bench.upstream.sharded, loss=loss_of(bench), batch=batches[0])


def scoring_ratio(bench: Bench, batches: list[Batch]) -> float:
    """Score batches again and again, with and without metrics."""
    schema = bench.reader.dataset.schema
    model = bench.upstream.sharded.model
    model.eval()

    def run() -> None:
        scores = Scores(schema, schema.binary_tasks)
        again = (batches[step % len(batches)] for step in range(bench.steps))
        forward = lambda one: model(one).logits  # noqa: E731 - as a stage hands it over
        score_pass(again, forward=forward, sinks=[scores.update], ranks=bench.ranks)
        scores.reduce(bench.ranks)

    return bench.steps * bench.batch_size / bench.seconds(run) / forward_rate(bench, batches)


def metrics_ratio(bench: Bench, _: list[Batch]) -> float:
    """Run pretrain over three days with a clock around metrics and their log."""
    spent = 0.0

    def timed(run: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(run)
        def clocked(*words: Any, **named: Any) -> Any:
            nonlocal spent
            started = time.thread_time()
            try:
                return run(*words, **named)
            finally:
                spent += time.thread_time() - started

        return clocked

    config = pretrain_config(bench.folder, bench.ranks, output="metrics", last=FIRST_DAY + 2)
    started = time.thread_time()
    with (
        patch.object(Scores, "update", timed(Scores.update)),
        patch.object(Scores, "reduce", timed(Scores.reduce)),
        patch.object(MetricsLog, "write", timed(MetricsLog.write)),
    ):
        output = pretrain.run(config, bench.ranks)
    total = time.thread_time() - started
    bench.ranks.barrier()
    if bench.ranks.is_first:
        shutil.rmtree(output)
    return 1.0 - spent / total


def dump_ratio(bench: Bench, batches: list[Batch]) -> float:
    """Fold and write a day, and score batches as often."""
    dataset, model = bench.reader.dataset, bench.upstream.model
    last = list(model.mix.layer_dims)[-1]
    slots = Slots(
        by="domain",
        groups=groups_of(dataset.schema, by="domain", domains=(), scenarios=()),
        events=("",),
        horizons=horizons_of(days=(7.0,), events=()),
        layers={last: model.mix.layer_dims[last]},
        reads="layernorm",
        towers=(model.rep_dims[0], model.rep_dims[1]),
    )
    plain = ReaderConfig(batch_size=bench.batch_size, shuffle=False)
    reader = Reader(dataset, config=plain, ranks=bench.ranks, seed=0, final_labels=False)
    folding = Folding(
        ranks=bench.ranks, dataset=dataset, reader=reader, upstream=bench.upstream, slots=slots
    )
    header = Header(
        upstream=bench.upstream.lineage.version,
        as_of=FIRST_DAY,
        checkpoint_day=FIRST_DAY,
        trained_through=FIRST_DAY,
        representations=slots.specs(),
        first_day=FIRST_DAY,
    )
    bench.upstream.loaded = bench.upstream.lineage.days[FIRST_DAY]  # whatever weights it has now

    def run() -> None:
        folding.start(None)
        folding.add_day(FIRST_DAY)
        write_snapshot(
            bench.ranks,
            bench.folder / "reps",
            header=header,
            states=folding.states(),
            previous=None,
            overwrite=True,
        )

    bench.upstream.sharded.model.eval()
    return bench.rows / bench.seconds(run) / forward_rate(bench, batches)


def transfer_ratio(bench: Bench, _: list[Batch], *, arm: str) -> float:
    """Fit an arm on a day, and its model on one batch; reads what ``dump_ratio`` wrote."""
    names = ("user.ur", "item.ir")
    lineage = bench.upstream.lineage
    run = RunConfig(
        name=arm,
        arm=DEFAULT_ARMS[arm],
        seed=0,
        domain="ads",
        tasks=("click",),
        first_day=LATER,
        align_days=True,
        reader=ReaderConfig(batch_size=bench.batch_size),
        model=DownstreamConfig(mlp=(256, 128, 64)),
        shard=ShardConfig(),
    )
    sources = Sources(
        dataset=bench.reader.dataset,
        reps=bench.folder / "reps",
        version=lineage.version,
        names=names,
        upstream=lineage.config,
        checkpoint=lineage.days[FIRST_DAY],
    )
    fitter = build_arm(run, sources, ranks=bench.ranks).fitter
    metrics = MetricsLog(bench.folder / "transfer.jsonl", ranks=bench.ranks)
    fitted = fitter.fit(
        FitConfig(max_epochs=1),
        train=[LATER],
        valid=[LATER + 1],
        metrics=metrics,
        stop=bench.ranks.stop,
    )
    batch = next(iter(fitter.trainer.day(LATER)))
    bare = bare_rate(bench, fitter.sharded, loss=fitter.loss, batch=batch)
    return fitted.rows / fitted.seconds / bare


RATIOS = {
    "pretrain": pretrain_ratio,
    "loop": loop_ratio,
    "scoring": scoring_ratio,
    "metrics": metrics_ratio,
    "dump": dump_ratio,
    "transfer, vanilla": partial(transfer_ratio, arm="vanilla"),
    "transfer, adapter": partial(transfer_ratio, arm="adapter"),
}


def open_bench(folder: Path, ranks: Ranks) -> Bench:
    """Train an upstream and place it for use."""
    dataset = open_dataset(folder / "data", ranks)
    config = pretrain_config(folder, ranks, output=f"upstream-{ranks.world}")
    lineage = open_lineage(pretrain.run(config, ranks))
    reader = Reader(dataset, config=config.reader, ranks=ranks, seed=0, final_labels=False)
    model = Lfm(dataset.schema, lineage.config)
    upstream = place_upstream(lineage, model, place=PlaceConfig(), ranks=ranks)
    upstream.load(FIRST_DAY)
    return Bench(folder=folder, ranks=ranks, reader=reader, upstream=upstream)


def main() -> None:
    """Measure; rank 0 writes the ratios of every round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--only", action="append", default=[])
    words = parser.parse_args()
    chosen = {name: run for name, run in RATIOS.items() if not words.only or name in words.only}
    with open_ranks() as ranks:
        bench = open_bench(words.folder, ranks)
        batches = bench.some()
        bare_rate(bench, bench.upstream.sharded, loss=loss_of(bench), batch=batches[0])  # warm
        found: dict[str, list[float]] = {name: [] for name in chosen}
        for _ in range(words.rounds):
            for name, run in chosen.items():
                found[name].append(run(bench, batches))
        if ranks.is_first:
            words.result.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
