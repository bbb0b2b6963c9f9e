"""torch-rechub as its documentation trains on large data: a streamed Parquet set, its trainers.

Its interpreter is that of its own environment.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.peers import meter
from benchmarks.peers.meter import DIM, IDS, NUMBERS, ROWS, Job


class Rows(IterableDataset[tuple[dict[str, Tensor], Tensor]]):
    """Its streamed batches as its trainers take them: features, labels."""

    def __init__(self, job: Job, split: str) -> None:
        columns = [*IDS, *NUMBERS, *job.tasks]
        stream = import_module("torch_rechub.data.dataset").ParquetIterableDataset
        self._source = stream(job.files(split), columns=columns, batch_size=job.batch_size)
        self._tasks = job.tasks

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for batch in self._source:
            labels = [batch.pop(task) for task in self._tasks]
            yield batch, labels[0] if len(labels) == 1 else torch.stack(labels, dim=1)


def main() -> None:
    """Train one epoch and score."""
    job = meter.read_job()
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    features = import_module("torch_rechub.basic.features")
    fields = [features.SparseFeature(name, vocab_size=ROWS, embed_dim=DIM) for name in IDS]
    fields += [features.DenseFeature(name) for name in NUMBERS]
    model, trainer = (_dcnv2 if job.model == "dcnv2" else _mmoe)(job, fields)
    loader = DataLoader(Rows(job, "train"), batch_size=None)
    with meter.measured() as epoch:
        trainer.train_one_epoch(loader)
    model.eval()
    with torch.no_grad():
        scores = [model(x).numpy() for x, _ in DataLoader(Rows(job, job.scored), batch_size=None)]
    meter.report(job, epoch, np.concatenate(scores))


def _dcnv2(job: Job, fields: list[Any]) -> tuple[nn.Module, Any]:
    model = import_module("torch_rechub.models.ranking").DCNv2(
        fields,
        n_cross_layers=meter.CROSS_LAYERS,
        mlp_params={"dims": list(meter.MLP)},
        model_structure="stacked",
        use_low_rank_mixture=False,
    )
    return model, import_module("torch_rechub.trainers").CTRTrainer(
        model, optimizer_params={"lr": job.dense_lr}
    )


def _mmoe(job: Job, fields: list[Any]) -> tuple[nn.Module, Any]:
    kinds = ["classification"] * len(job.tasks)
    model = import_module("torch_rechub.models.multi_task").MMOE(
        fields,
        kinds,
        n_expert=meter.NUM_EXPERTS,
        expert_params={"dims": list(meter.EXPERT)},
        tower_params_list=[{"dims": list(meter.TOWER)} for _ in kinds],
    )
    return model, import_module("torch_rechub.trainers").MTLTrainer(
        model, task_types=kinds, optimizer_params={"lr": job.dense_lr}
    )


if __name__ == "__main__":
    main()
