"""Training speed of each interaction, as a ratio to DCNv2's: ``python -m benchmarks.experts``.

Every model trains on the same batches, held in memory, with the loss, optimisers and placement of
pretrain, one process. Kinds take turns, so that a busy machine slows all of them alike.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import torch

from data.adsworld import prepare
from lfm4ads.core.config import load_config, parse_config
from lfm4ads.core.ranks import Ranks, open_ranks
from lfm4ads.core.seed import seed_torch
from lfm4ads.data.batch import Batch
from lfm4ads.data.index import open_dataset
from lfm4ads.data.reader import Reader, ReaderConfig
from lfm4ads.data.schema import Schema
from lfm4ads.model.config import LfmConfig
from lfm4ads.model.lfm import Lfm
from lfm4ads.shard.sharded import ShardConfig, shard_model
from lfm4ads.train.losses import masked_bce

_SHAPE = """
tower: {hidden: [128], rep_dim: 112, token_dim: 28}
"""
_SETS = "sets: {main: {dim: 16}, other: {dim: 16}}"
_GATE = "merge: {kind: gate}"
MODELS = {
    **{
        kind: f"mix: {{experts: {{a: {{interaction: {{kind: {kind}}}}}}}}}"
        for kind in (
            "dcnv2",
            "dcnv2, rank: 16",
            "flat",
            "fm",
            "fwfm",
            "fmfm",
            "fmfm, diagonal: true",
            "ffm",
            "ipnn",
            "gwpfm",
        )
    },
    "multi-embedding, 2 dcnv2": f"{_SETS}\nmix: {{experts: {{a: {{}}, b: {{tables: other}}}}}}",
    "gate over dcnv2, flat and, on a second set, gwpfm": f"""{_SETS}
mix:
  experts:
    a: {{}}
    b: {{interaction: {{kind: flat}}}}
    c: {{tables: other, interaction: {{kind: gwpfm}}}}
  {_GATE}
""",
    "stop-gradient, a gate a task, 2 dcnv2": f"""{_SETS}
mix: {{experts: {{a: {{}}, b: {{tables: other}}}}, merge: {{kind: gate, per_task: true}}}}
trains: {{click: [main], long_view: [other]}}
""",
}
"""What stands above the same towers, 8 pieces of width 28."""


def _steps(
    config: LfmConfig, batches: list[Batch], *, ranks: Ranks, schema: Schema
) -> Callable[[], float]:
    seed_torch(0)
    model = Lfm(schema, config)
    sharded = shard_model(model, config=ShardConfig(), ranks=ranks, seed=0)
    sharded.model.train()

    def once() -> float:
        started = time.perf_counter()
        for batch in batches:
            loss = masked_bce(sharded.model(batch).logits, batch)
            sharded.step(loss / len(batch))
        return (time.perf_counter() - started) / len(batches)

    return once


def measure(
    models: Mapping[str, LfmConfig], *, rounds: int, batch_size: int, ranks: Ranks
) -> dict[str, float]:
    """Return the median seconds of a step of each model, on a day of the simulator."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["configs/prepare/adsworld.yaml", f"output={folder}/data", "days=1", "fit_days=1"]
        prepare.run(load_config(prepare.Config, words))
        dataset = open_dataset(Path(folder) / "data", ranks)
        reader = Reader(dataset, config=ReaderConfig(batch_size=batch_size), ranks=ranks, seed=0)
        day = min(dataset.days)
        batches = [batch for batch, _ in zip(reader.day(day), range(8), strict=False)]
    runs = {
        name: _steps(config, batches, ranks=ranks, schema=dataset.schema)
        for name, config in models.items()
    }
    for once in runs.values():
        once()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, once in runs.items():
            seconds[name].append(once())
    return {name: median(values) for name, values in seconds.items()}


def print_ratios(models: Mapping[str, LfmConfig], *, words: str | None) -> None:
    """Measure as the command line says; print speeds over that of the first model.

    ``words`` are the program's own description.
    """
    parser = argparse.ArgumentParser(description=words)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with open_ranks() as ranks:
        seconds = measure(
            models, rounds=arguments.rounds, batch_size=arguments.batch_size, ranks=ranks
        )
    first = next(iter(models))
    ratios = {name: seconds[first] / value for name, value in seconds.items()}
    if arguments.json:
        sys.stdout.write(f"{json.dumps({'ratios': ratios})}\n")
        return
    for name, ratio in ratios.items():
        sys.stdout.write(f"{name:50} {ratio:5.2f} of {first}'s rows a second\n")


if __name__ == "__main__":
    print_ratios(
        {name: parse_config(LfmConfig, _SHAPE + words) for name, words in MODELS.items()},
        words=__doc__,
    )
