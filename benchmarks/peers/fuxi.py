"""FuxiCTR: its loader, its training loop, its blocks.

The wheel has neither of the two models (its DCNv2 reads sequences, its folder of multi-task models
is empty), so they are put together here of its own layers as its model zoo does. Its interpreter is
that of its own environment.
"""

import logging
from collections import OrderedDict
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers import meter
from benchmarks.peers.meter import DIM, IDS, NUMBERS, ROWS, Job

layers = import_module("fuxictr.pytorch.layers")
models = import_module("fuxictr.pytorch.models")


class Dcnv2(models.BaseModel):
    """Stacked: cross layers, then the MLP."""

    def __init__(self, job: Job, feature_map: Any) -> None:
        super().__init__(feature_map, **_words())
        width = feature_map.sum_emb_out_dim()
        self.embedding_layer = layers.FeatureEmbedding(feature_map, DIM)
        self.crossnet = layers.CrossNetV2(width, meter.CROSS_LAYERS)
        self.mlp = layers.MLP_Block(input_dim=width, hidden_units=list(meter.MLP), output_dim=1)
        self.compile("adam", "binary_crossentropy", job.dense_lr)
        self.reset_parameters()

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return probabilities (B, 1)."""
        fields = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        return {"y_pred": self.output_activation(self.mlp(self.crossnet(fields)))}

    def load_weights(self, checkpoint: str) -> None:
        """Keep the weights: of one epoch without validation none is the best one."""


class Mmoe(models.MultiTaskModel):
    """Experts, a linear gate and a tower a task."""

    def __init__(self, job: Job, feature_map: Any) -> None:
        kinds = ["binary_classification"] * len(job.tasks)
        super().__init__(feature_map, task=kinds, num_tasks=len(kinds), **_words())
        width, block = feature_map.sum_emb_out_dim(), layers.MLP_Block
        self.embedding_layer = layers.FeatureEmbedding(feature_map, DIM)
        experts, hidden = range(meter.NUM_EXPERTS), list(meter.EXPERT)
        self.experts = nn.ModuleList(block(input_dim=width, hidden_units=hidden) for _ in experts)
        self.gates = nn.ModuleList(nn.Linear(width, len(experts)) for _ in kinds)
        self.towers = nn.ModuleList(
            block(input_dim=hidden[-1], hidden_units=list(meter.TOWER), output_dim=1) for _ in kinds
        )
        self.compile("adam", ["binary_crossentropy"] * len(kinds), job.dense_lr)
        self.reset_parameters()

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return probabilities (B, 1) a task."""
        fields = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        out_BEH = torch.stack([expert(fields) for expert in self.experts], dim=1)
        found: dict[str, Tensor] = {}
        parts = zip(
            self.feature_map.labels, self.gates, self.towers, self.output_activation, strict=True
        )
        for task, gate, tower, activation in parts:
            share_B1E = gate(fields).softmax(dim=1).unsqueeze(1)
            found[f"{task}_pred"] = activation(tower((share_B1E @ out_BEH).squeeze(1)))
        return found

    def load_weights(self, checkpoint: str) -> None:
        """Keep the weights, as above."""


def main() -> None:
    """Train one epoch and score."""
    job = meter.read_job()
    logging.disable(logging.WARNING)
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    feature_map = _feature_map(job)
    model = (Dcnv2 if job.model == "dcnv2" else Mmoe)(job, feature_map)
    with meter.measured() as epoch:
        model.fit(_loader(job, feature_map, "train"), epochs=1)
    scores = model.predict(_loader(job, feature_map, job.scored))
    columns = [scores[task] for task in job.tasks] if isinstance(scores, dict) else [scores]
    meter.report(job, epoch, np.stack(columns, axis=1))


def _loader(job: Job, feature_map: Any, split: str) -> Any:
    loader = import_module("fuxictr.pytorch.dataloaders.npz_dataloader").NpzDataLoader
    path = job.data.parent / "npz" / f"{split}.npz"
    return loader(feature_map, str(path), batch_size=job.batch_size, shuffle=split == "train")


def _feature_map(job: Job) -> Any:
    feature_map = import_module("fuxictr.features").FeatureMap("peers", str(job.data.parent))
    ids = {"type": "categorical", "source": "", "vocab_size": ROWS}
    number = {"type": "numeric", "source": "", "embedding_dim": 1}
    feature_map.features = OrderedDict(
        {name: dict(ids) for name in IDS} | {name: dict(number) for name in NUMBERS}
    )
    feature_map.labels = job.tasks
    feature_map.default_emb_dim = DIM
    feature_map.set_column_index()
    return feature_map


def _words() -> dict[str, Any]:
    """Return settings that every model of it must be given; it is never evaluated."""
    return {"verbose": 0, "model_root": ".", "metrics": ["AUC"], "eval_steps": 10**9}


if __name__ == "__main__":
    main()
