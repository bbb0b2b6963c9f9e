"""What weighing tasks costs: ``python -m benchmarks.between --json``.

The network of configs/pretrain/plain_adsworld.yaml trains on the same batches of its world, held in
memory, with each kind of ``loss.between``, one process and one thread. Kinds take turns, so that a
busy machine slows all of them alike; times are of the processor, the median over turns.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal, get_args

import torch

from data.adsworld import prepare
from lfm4ads.core.config import load_config
from lfm4ads.core.ranks import Ranks, open_ranks
from lfm4ads.core.seed import seed_torch
from lfm4ads.data.batch import Batch
from lfm4ads.data.index import open_dataset
from lfm4ads.data.reader import Reader
from lfm4ads.data.schema import Schema
from lfm4ads.model.lfm import Lfm
from lfm4ads.nn.tables import looked_up
from lfm4ads.shard.sharded import Sharded, shard_model
from lfm4ads.stages.pretrain import Config
from lfm4ads.train.between import BetweenConfig
from lfm4ads.train.objective import LossConfig, Objective

Kind = Literal["none", "uncertainty", "gradnorm", "pcgrad"]
CONFIGS = Path(__file__).parents[1] / "configs"
DAY = 20260101


class Run:
    """A model under training with one kind."""

    def __init__(self, kind: Kind, config: Config, *, schema: Schema, ranks: Ranks) -> None:
        seed_torch(0)
        self._sharded: Sharded = shard_model(
            Lfm(schema, config.model), config=config.shard, ranks=ranks, seed=0
        )
        loss = LossConfig(between=BetweenConfig(kind=kind))
        self._objective = Objective(loss, schema=schema, ranks=ranks)
        self._step = 0

    def learn(self, batches: list[Batch]) -> float:
        """Train on the batches; return the seconds of processor a step took."""
        model = self._sharded.model
        started = time.process_time()
        for batch in batches:
            looked = partial(looked_up, model.module)
            logits_BT = model(batch).logits
            loss = self._objective(logits_BT, batch, step=self._step, looked=looked)
            self._sharded.step(loss / len(batch))
            self._step += 1
        return (time.process_time() - started) / len(batches)


def measure(config: Config, *, turns: int, steps: int, ranks: Ranks) -> dict[str, float]:
    """Return the seconds of a step of every kind."""
    dataset = open_dataset(config.data, ranks)
    reader = Reader(dataset, config=config.reader, ranks=ranks, seed=0)
    batches = [batch for batch, _ in zip(reader.day(DAY), range(steps), strict=False)]
    runs = {kind: Run(kind, config, schema=dataset.schema, ranks=ranks) for kind in get_args(Kind)}
    seconds: dict[str, list[float]] = {kind: [] for kind in runs}
    for turn in range(turns + 1):
        for kind, run in runs.items():
            took = run.learn(batches)
            if turn:  # the first warms up
                seconds[kind].append(took)
    print(f"{len(dataset.schema.tasks)} tasks, {len(batches[0])} rows a step")
    return {kind: median(times) for kind, times in seconds.items()}


def main() -> None:
    """Print milliseconds of a step and its ratio to plain sums; ``--json`` in one line too."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="of a turn")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, open_ranks() as ranks:
        world = load_config(
            prepare.Config,
            [str(CONFIGS / "prepare" / "adsworld.yaml"), "days=1", f"output={folder}/world"],
        )
        prepare.run(world)
        config = load_config(Config, [str(CONFIGS / "pretrain" / "plain_adsworld.yaml")])
        config = replace(config, data=Path(folder) / "world")
        seconds = measure(config, turns=options.turns, steps=options.steps, ranks=ranks)
    for kind, one in seconds.items():
        print(f"{kind:12} {1000 * one:7.2f} ms  {one / seconds['none']:.2f}")
    if options.json:
        print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
