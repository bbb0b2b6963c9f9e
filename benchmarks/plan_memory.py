"""Predicted memory of a small job on CPU beside what it takes.

python -m benchmarks.plan_memory --json

Tables of about 200 MB are planned for 1 and 2 ranks and then trained a few steps, placed as
planned. Weights and optimiser state are counted on the ranks and summed. Growth of resident memory,
from after the imports to the end of the last step, holds besides what the plan leaves out:
libraries that load late, the allocator's slack.
The last line printed is one JSON object.
"""

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torchrec
from torch import Tensor, nn
from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage] - documented, absent from __all__
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from lfm4ads.core.files import write_json
from lfm4ads.core.ranks import Ranks, connect
from lfm4ads.shard.optim import OptimConfig
from lfm4ads.shard.place import PlaceConfig
from lfm4ads.shard.planning.cluster import ClusterConfig, WorkloadConfig
from lfm4ads.shard.planning.described import (
    RuleConfig,
    TableGroup,
    Tables,
    apply_rules,
    describe_groups,
)
from lfm4ads.shard.planning.placed import placement_of
from lfm4ads.shard.planning.planner import Plan, SearchConfig, plan_cluster
from lfm4ads.shard.sharded import ShardConfig, Sharded, shard_model

POOLING = 4
GROUPS = {
    "large": TableGroup(count=2, rows=150_000, dim=64, pooling=POOLING),
    "small": TableGroup(count=20, rows=25_000, dim=64, pooling=POOLING),
}
HIDDEN = 256


class Bags(nn.Module):
    """Tables summed into one vector, and two dense layers."""

    def __init__(self, tables: Tables) -> None:
        super().__init__()
        self.bags = torchrec.EmbeddingBagCollection(
            device=torch.device("meta"),
            tables=[
                torchrec.EmbeddingBagConfig(
                    name=name,
                    num_embeddings=int(rows),
                    embedding_dim=int(dim),
                    feature_names=[name],
                )
                for name, rows, dim in zip(tables.names, tables.rows_T, tables.dim_T, strict=True)
            ],
        )
        self.dense = nn.Sequential(
            nn.Linear(int(tables.dim_T.sum()), HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)
        )

    def forward(self, ids: torchrec.KeyedJaggedTensor) -> Tensor:
        """Return one number a row (B, 1)."""
        return self.dense(self.bags(ids).values())


@dataclass(frozen=True)
class Job:
    """What is planned and then run."""

    world: int
    batch_size: int
    sparse_kind: Any
    steps: int

    @property
    def tables(self) -> Tables:
        """Return the tables; data_parallel would train them by another optimiser's memory."""
        kinds = ("table_wise", "row_wise")
        return apply_rules(describe_groups(GROUPS), rules={"*": RuleConfig(kinds=kinds)})

    def plan(self) -> Plan:
        """Return the plan for this job."""
        dense = sum(p.numel() for p in Bags(self.tables).dense.parameters())
        workload = WorkloadConfig(
            batch_size=self.batch_size,
            sparse_kind=self.sparse_kind,
            dense_parameters=dense,
            activation_bytes_per_row=4 * (2 * HIDDEN + 2),
        )
        cluster = ClusterConfig(nodes=1, gpus_per_node=self.world, hbm_gib=8)
        return plan_cluster(self.tables, workload=workload, cluster=cluster, search=SearchConfig())


def resident_bytes() -> int:
    """Return this process's resident memory."""
    words = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()
    return int(words[0]) * 1024


def batches(job: Job, *, rank: int) -> Iterator[torchrec.KeyedJaggedTensor]:
    """Yield random ids."""
    tables = job.tables
    draw = torch.Generator().manual_seed(rank)
    size = job.batch_size * POOLING
    lengths = torch.full((len(tables) * job.batch_size,), POOLING, dtype=torch.int64)
    for _ in range(job.steps):
        values = [torch.randint(int(rows), (size,), generator=draw) for rows in tables.rows_T]
        yield torchrec.KeyedJaggedTensor(
            keys=list(tables.names), values=torch.cat(values), lengths=lengths
        )


def train(job: Job, ranks: Ranks, *, placement: Path) -> dict[str, int]:
    """Shard, take some steps and return the bytes of this rank."""
    before = resident_bytes()
    torch.manual_seed(0)
    config = ShardConfig(
        place=PlaceConfig(plan=placement), optim=OptimConfig(sparse_kind=job.sparse_kind)
    )
    sharded = shard_model(Bags(job.tables), config=config, ranks=ranks, seed=0)
    for ids in batches(job, rank=ranks.rank):
        sharded.step(sharded.model(ids).mean())
    weights = sum(map(_local_bytes, _table_weights(sharded)))
    states = sharded.fused.state_dict()["state"].values()
    held = [value for state in states for value in state.values()]
    return {
        "weights": weights,
        "optimizer": sum(map(_local_bytes, held)),
        "growth": resident_bytes() - before,
    }


def _table_weights(sharded: Sharded) -> list[Any]:
    state = sharded.model.state_dict()
    return [value for name, value in state.items() if ".embedding_bags." in name]


def _local_bytes(value: Any) -> int:
    parts = (
        [shard.tensor for shard in value.local_shards()]
        if isinstance(value, ShardedTensor)
        else [value]
    )
    return sum(part.numel() * part.element_size() for part in parts)


def _enter(job: Job, rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    ranks = connect(rank, job.world, FileStore(f"{folder}/store", job.world))
    held = train(job, ranks, placement=Path(folder) / "placement.json")
    (Path(folder) / f"rank-{rank}").write_text(json.dumps(held))
    dist.destroy_process_group()


def measure(job: Job) -> dict[str, Any]:
    """Plan a job, run it in processes of its own and compare."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "placement.json", placement_of(job.tables, job.plan()))
        processes = [
            context.Process(target=_enter, args=(job, rank, folder)) for rank in range(job.world)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        held = [
            json.loads((Path(folder) / f"rank-{rank}").read_text()) for rank in range(job.world)
        ]
    cost = job.plan().estimate
    predicted = {name: float(cost.memory[name].sum()) for name in ("weights", "optimizer")}
    predicted["growth"] = float(cost.hbm.sum())
    measured = {name: sum(each[name] for each in held) for name in predicted}
    return {
        "world": job.world,
        "sparse_kind": job.sparse_kind,
        "predicted_bytes": predicted,
        "measured_bytes": measured,
        "ratios": {name: measured[name] / predicted[name] for name in predicted if predicted[name]},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=3)
    words = parser.parse_args()
    cases = []
    for world in (1, 2):
        for kind in ("rowwise_adagrad", "adagrad"):
            cases.append(measure(Job(world, words.batch_size, kind, words.steps)))
            one = cases[-1]
            says = ", ".join(
                f"{name} {one['predicted_bytes'][name] / 1e6:.1f} MB predicted,"
                f" {one['measured_bytes'][name] / 1e6:.1f} measured ({ratio:.4f})"
                for name, ratio in one["ratios"].items()
            )
            print(f"{world} ranks, {kind}: {says}", flush=True)
    if words.json:
        print(json.dumps({"cases": cases}))


if __name__ == "__main__":
    main()
