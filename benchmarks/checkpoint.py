"""How long training stands still for a checkpoint, and how large one is on disk.

    python -m benchmarks.checkpoint --json

The last line is one JSON object; ``ratios`` holds what should not change: the stall of an
asynchronous save against a synchronous one, and bytes on disk against bytes of state.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage] - documented, absent from __all__
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from lfm4ads.core.checkpoint import tensor_shapes
from lfm4ads.core.ranks import Ranks, connect
from lfm4ads.shard.saver import SaveConfig, Saver
from lfm4ads.shard.sharded import ShardConfig, Sharded, shard_model

TABLES, DIM, BATCH_ROWS, BAG = 4, 64, 1024, 8
CALM_STEPS, SAVES = 30, 3
INTERVAL_STEPS = 1000
"""Between two saves of a run, for the share of its time."""


class Model(nn.Module):
    """Tables and a small network."""

    def __init__(self, *, rows: int) -> None:
        super().__init__()
        self.bags = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=f"table_{i}",
                    num_embeddings=rows,
                    embedding_dim=DIM,
                    feature_names=[f"id_{i}"],
                )
                for i in range(TABLES)
            ],
            device=torch.device("meta"),
        )
        self.mlp = nn.Sequential(nn.Linear(TABLES * DIM, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, sparse: KeyedJaggedTensor) -> Tensor:
        """Return one logit a row."""
        return self.mlp(self.bags(sparse).values()).squeeze(1)


def step(sharded: Sharded, *, rows: int, drawn: torch.Generator) -> float:
    """Train once on random ids; return the seconds it took."""
    ids = torch.randint(rows, (TABLES * BATCH_ROWS * BAG,), generator=drawn)
    lengths = torch.full((TABLES * BATCH_ROWS,), BAG, dtype=torch.int32)
    sparse = KeyedJaggedTensor([f"id_{i}" for i in range(TABLES)], ids, lengths=lengths)
    started = time.perf_counter()
    sharded.step(sharded.model(sparse.to(sharded.ranks.device)).square().mean())
    return time.perf_counter() - started


def measure(ranks: Ranks, *, rows: int, folder: Path, asynchronous: bool) -> dict[str, float]:
    """Return step time, stall of a save and what else a save costs the steps after it."""
    torch.manual_seed(0)
    drawn = torch.Generator().manual_seed(ranks.rank)
    sharded = shard_model(Model(rows=rows), config=ShardConfig(), ranks=ranks, seed=0)
    saver = Saver(sharded, config=SaveConfig(asynchronous=asynchronous))
    step(sharded, rows=rows, drawn=drawn)
    calm = statistics.median(step(sharded, rows=rows, drawn=drawn) for _ in range(CALM_STEPS))
    stalls, writes, slowed = [], [], []
    for number in range(SAVES):
        started = time.perf_counter()
        stalls.append(saver.save(folder / f"{number}", meta={}))
        beside = []
        while not ranks.any(saver.is_idle):
            beside.append(step(sharded, rows=rows, drawn=drawn))
        saver.wait()
        writes.append(time.perf_counter() - started)
        slowed.append(sum(beside) - len(beside) * calm)
    saver.close()
    # The first save makes the buffers of the copy; a run has many.
    return {
        "step_seconds": calm,
        "first_stall_seconds": stalls[0],
        "stall_seconds": statistics.median(stalls[1:]),
        "write_seconds": statistics.median(writes[1:]),
        "slowed_seconds": statistics.median(slowed[1:]),
    }


def work(rank: int, world: int, rows: int, store: str, folder: str) -> None:
    """Measure on one rank; rank 0 writes down what all ranks have at most."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    ranks = connect(rank, world, FileStore(store, world))
    found = {}
    for kind in ("synchronous", "asynchronous"):
        into = Path(folder) / kind
        own = measure(ranks, rows=rows, folder=into, asynchronous=kind == "asynchronous")
        texts = [json.loads(text) for text in ranks.texts(json.dumps(own))]
        found[kind] = {name: max(one[name] for one in texts) for name in own}
    if ranks.is_first:
        last = Path(folder) / "synchronous" / "0"
        shapes = tensor_shapes(last, part="").values()
        found["state_bytes"] = 4 * sum(math.prod(shape) for shape in shapes)
        found["disk_bytes"] = sum(path.stat().st_size for path in last.iterdir())
        (Path(folder) / "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def run(world: int, *, rows: int) -> dict[str, Any]:
    """Measure on some ranks of this machine."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        arguments = (world, rows, f"{folder}/store", folder)
        processes = [context.Process(target=work, args=(rank, *arguments)) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        found = json.loads((Path(folder) / "found.json").read_text())
    for kind in ("synchronous", "asynchronous"):
        one = found[kind]
        one["stall_steps"] = one["stall_seconds"] / one["step_seconds"]
        one["cost_steps"] = (one["stall_seconds"] + one["slowed_seconds"]) / one["step_seconds"]
        one["share_of_run"] = one["cost_steps"] / (INTERVAL_STEPS + one["cost_steps"])
    return found


def main() -> None:
    """Print a line a number of ranks, and all figures as JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=300_000, help="of each of four tables")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    words = parser.parse_args()
    found: dict[str, Any] = {"rows": words.rows}
    ratios: dict[str, float] = {}
    for world in words.ranks:
        one = found[f"{world}_ranks"] = run(world, rows=words.rows)
        for kind in ("synchronous", "asynchronous"):
            times = one[kind]
            print(
                f"{world} ranks, {kind}: stall {times['stall_seconds']:.3f} s"
                f" = {times['stall_steps']:.1f} steps, written after {times['write_seconds']:.2f}"
                f" s, all of it {times['cost_steps']:.1f} steps or"
                f" {times['share_of_run']:.2%} of a run that saves every {INTERVAL_STEPS} steps"
            )
        stalls = [one[kind]["stall_seconds"] for kind in ("asynchronous", "synchronous")]
        ratios[f"{world}_ranks_stall_asynchronous"] = stalls[0] / stalls[1]
        ratios[f"{world}_ranks_disk_bytes"] = one["disk_bytes"] / one["state_bytes"]
    if words.json:
        print(json.dumps(found | {"ratios": ratios}))


if __name__ == "__main__":
    main()
