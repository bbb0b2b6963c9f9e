"""One point of ``benchmarks.growth``, on the ranks it is started on.

- train: a pass of pretrain over a day, from Parquet.
- read: the same batches, read alone.
- tables: a model placed on the ranks, and some steps on one batch.
"""

import argparse
import gc
import json
import resource
import time
from pathlib import Path

import numpy as np

from benchmarks.limit_job import pretrain_config
from benchmarks.logs import FIRST_DAY
from lfm4ads.core.ranks import Ranks, open_ranks
from lfm4ads.core.seed import seed_torch
from lfm4ads.data.index import Dataset, open_dataset
from lfm4ads.data.reader import Reader
from lfm4ads.model.lfm import Lfm
from lfm4ads.shard.sharded import Sharded, shard_model
from lfm4ads.stages import pretrain
from lfm4ads.train.loop import train_pass
from lfm4ads.train.losses import masked_bce

_STEPS = 10


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _config(folder: Path, ranks: Ranks) -> pretrain.Config:
    return pretrain_config(folder, ranks, output="run")


def _model(config: pretrain.Config, dataset: Dataset, ranks: Ranks) -> Sharded:
    seed_torch(0)
    return shard_model(Lfm(dataset.schema, config.model), config=config.shard, ranks=ranks, seed=0)


def _reader(config: pretrain.Config, dataset: Dataset, ranks: Ranks) -> Reader:
    return Reader(dataset, config=config.reader, ranks=ranks, seed=0, final_labels=False)


def train(folder: Path, ranks: Ranks) -> dict[str, float]:
    """Train on the day once."""
    dataset = open_dataset(folder / "data", ranks)
    config = _config(folder, ranks)
    sharded, reader = _model(config, dataset, ranks), _reader(config, dataset, ranks)

    def once() -> None:
        train_pass(
            sharded,
            reader.day(FIRST_DAY),
            loss=lambda batch: masked_bce(sharded.model(batch).logits, batch),
            batch_size=config.reader.batch_size,
            explain=lambda _: "",
        )

    started, cpu = time.perf_counter(), time.process_time()
    once()
    spent = ranks.sum(np.array([time.process_time() - cpu]))
    return {"seconds": time.perf_counter() - started, "cpu_seconds": float(spent[0])}


def read(folder: Path, ranks: Ranks) -> dict[str, float]:
    """Read the day once."""
    dataset = open_dataset(folder / "data", ranks)
    started = time.perf_counter()
    for _ in _reader(_config(folder, ranks), dataset, ranks).day(FIRST_DAY):
        pass
    return {"seconds": time.perf_counter() - started}


def tables(folder: Path, ranks: Ranks) -> dict[str, float]:
    """Place the model and train on one batch; tell what all of it holds in memory."""
    dataset = open_dataset(folder / "data", ranks)
    config = _config(folder, ranks)
    batch = next(iter(_reader(config, dataset, ranks).day(FIRST_DAY)))
    sharded = _model(config, dataset, ranks)
    sharded.model.train()
    seconds: list[float] = []
    for _ in range(_STEPS):
        started = time.perf_counter()
        loss = masked_bce(sharded.model(batch).logits, batch)
        sharded.step(loss / config.reader.batch_size)
        seconds.append(time.perf_counter() - started)
    gc.collect()
    rows_and_dims = sharded.tables.values()
    return {
        "seconds": min(seconds),
        "resident_bytes": _resident_bytes(),
        # float32 weights, and of row-wise AdaGrad one number a row.
        "wanted_bytes": float(sum(rows * (4 * dim + 4) for rows, dim in rows_and_dims)),
    }


_POINTS = {"train": train, "read": read, "tables": tables}


def main() -> None:
    """Run, and let rank 0 write what it measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=list(_POINTS))
    parser.add_argument("folder", type=Path)
    words = parser.parse_args()
    with open_ranks() as ranks:
        found = _POINTS[words.what](words.folder, ranks)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if ranks.is_first:
            (words.folder / "result.json").write_text(json.dumps(found | {"peak_bytes": peak}))


if __name__ == "__main__":
    main()
