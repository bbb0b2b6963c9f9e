"""The same models as a plain TorchRec program: what one would write without a framework.

Row-wise AdaGrad fused into the tables, Adam for the rest, pyarrow batches as they come.

Dimension key: B rows, F ids, M numbers, W width of all fields, H hidden width, E experts, T tasks.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
import torch.nn.functional as F
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import Tensor, nn
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage] - documented
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.peers import meter
from benchmarks.peers.meter import DIM, IDS, NUMBERS, ROWS, Job


class Dcn(nn.Module):
    """Cross layers, then an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.crosses = nn.ModuleList(nn.Linear(width, width) for _ in range(meter.CROSS_LAYERS))
        self.mlp = nn.Sequential(*_layers((width, *meter.MLP)), nn.Linear(meter.MLP[-1], 1))

    def forward(self, x0_BW: Tensor) -> Tensor:
        """Return logits (B, 1)."""
        x_BW = x0_BW
        for cross in self.crosses:
            x_BW = x0_BW * cross(x_BW) + x_BW
        return self.mlp(x_BW)


class Mmoe(nn.Module):
    """Experts, a linear gate and a tower a task."""

    def __init__(self, width: int, *, tasks: int) -> None:
        super().__init__()
        experts, hidden = range(meter.NUM_EXPERTS), (width, *meter.EXPERT)
        self.experts = nn.ModuleList(nn.Sequential(*_layers(hidden)) for _ in experts)
        self.gates = nn.ModuleList(nn.Linear(width, len(experts)) for _ in range(tasks))
        tower = (meter.EXPERT[-1], *meter.TOWER)
        self.towers = nn.ModuleList(
            nn.Sequential(*_layers(tower), nn.Linear(tower[-1], 1)) for _ in range(tasks)
        )

    def forward(self, x_BW: Tensor) -> Tensor:
        """Return logits (B, T)."""
        out_BEH = torch.stack([expert(x_BW) for expert in self.experts], dim=1)
        shares = [gate(x_BW).softmax(dim=1).unsqueeze(1) for gate in self.gates]
        logits = [
            tower((share_B1E @ out_BEH).squeeze(1))
            for share_B1E, tower in zip(shares, self.towers, strict=True)
        ]
        return torch.cat(logits, dim=1)


class Model(nn.Module):
    """Tables of the ids beside the numbers, and the dense network on both."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        tables = [
            EmbeddingBagConfig(
                name=name, embedding_dim=DIM, num_embeddings=ROWS, feature_names=[name]
            )
            for name in IDS
        ]
        self.bags = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
        width = len(IDS) * DIM + len(NUMBERS)
        self.top = Dcn(width) if job.model == "dcnv2" else Mmoe(width, tasks=len(job.tasks))

    def forward(self, ids: KeyedJaggedTensor, numbers_BM: Tensor) -> Tensor:
        """Return logits (B, T)."""
        return self.top(torch.cat([self.bags(ids).values(), numbers_BM], dim=1))


def main() -> None:
    """Train one epoch and score."""
    job = meter.read_job()
    torch.set_num_threads(job.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(job.seed)
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    fused = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": job.table_lr}
    sharder = EmbeddingBagCollectionSharder(fused_params={**fused, "eps": 1e-8})
    model = DistributedModelParallel(
        Model(job),
        device=torch.device("cpu"),
        sharders=[sharder],  # pyright: ignore[reportArgumentType]
    )
    dense = dict(in_backward_optimizer_filter(model.named_parameters()))
    optimizer = torch.optim.Adam(dense.values(), lr=job.dense_lr)
    with meter.measured() as epoch:
        for ids, numbers_BM, label_BT in _batches(job, "train"):
            optimizer.zero_grad(set_to_none=True)
            F.binary_cross_entropy_with_logits(model(ids, numbers_BM), label_BT).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        scores = [model(ids, numbers).numpy() for ids, numbers, _ in _batches(job, job.scored)]
    meter.report(job, epoch, np.concatenate(scores))
    dist.destroy_process_group()


def _batches(job: Job, split: str) -> Iterator[tuple[KeyedJaggedTensor, Tensor, Tensor]]:
    columns = [*IDS, *NUMBERS, *job.tasks]
    for file in job.files(split):
        for batch in pq.ParquetFile(file).iter_batches(job.batch_size, columns=columns):
            ids = np.concatenate([batch[name].to_numpy() for name in IDS])
            lengths = torch.ones(len(ids), dtype=torch.int32)
            kjt = KeyedJaggedTensor(keys=IDS, values=torch.from_numpy(ids), lengths=lengths)
            yield kjt, _matrix(batch, NUMBERS), _matrix(batch, job.tasks)


def _matrix(batch: pa.RecordBatch, names: Sequence[str]) -> Tensor:
    columns = [batch[name].to_numpy().astype(np.float32) for name in names]
    return torch.from_numpy(np.stack(columns, axis=1))


def _layers(widths: Sequence[int]) -> list[nn.Module]:
    return [
        layer
        for before, after in pairwise(widths)
        for layer in (nn.Linear(before, after), nn.ReLU())
    ]


if __name__ == "__main__":
    main()
