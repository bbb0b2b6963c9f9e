"""DeepCTR-Torch: a dict of arrays to ``fit``, which has the whole set in memory.

Its DCN runs cross layers and MLP side by side, of the same widths, and not one after the other; its
regularisation is set to nothing. Its interpreter is that of its own environment.
"""

from importlib import import_module
from typing import Any

import numpy as np
import torch

from benchmarks.peers import meter
from benchmarks.peers.meter import DIM, IDS, NUMBERS, ROWS, Job


def main() -> None:
    """Train one epoch and score."""
    job = meter.read_job()
    torch.set_num_threads(job.threads)
    model = _model(job)
    model.compile(torch.optim.Adam(model.parameters(), lr=job.dense_lr), _losses(job))
    with meter.measured() as epoch:
        rows, labels = _read(job, "train")
        model.fit(rows, labels, batch_size=job.batch_size, epochs=1, verbose=0)
    rows, _ = _read(job, job.scored)
    meter.report(job, epoch, model.predict(rows, job.batch_size))


def _read(job: Job, split: str) -> tuple[dict[str, Any], Any]:
    pandas = import_module("pandas")
    frames = [
        pandas.read_parquet(file, columns=[*IDS, *NUMBERS, *job.tasks]) for file in job.files(split)
    ]
    frame = pandas.concat(frames)
    labels = np.ascontiguousarray(frame[job.tasks].to_numpy())
    return {name: frame[name].to_numpy() for name in [*IDS, *NUMBERS]}, labels


def _losses(job: Job) -> Any:
    loss = "binary_crossentropy"
    return loss if len(job.tasks) == 1 else [loss] * len(job.tasks)


def _model(job: Job) -> Any:
    inputs = import_module("deepctr_torch.inputs")
    fields = [inputs.SparseFeat(name, ROWS, embedding_dim=DIM) for name in IDS]
    fields += [inputs.DenseFeat(name, 1) for name in NUMBERS]
    models = import_module("deepctr_torch.models")
    words = {"l2_reg_linear": 0, "l2_reg_embedding": 0, "l2_reg_dnn": 0, "seed": job.seed}
    if job.model == "dcnv2":
        return models.DCN(
            [],
            fields,
            cross_num=meter.CROSS_LAYERS,
            cross_parameterization="matrix",
            dnn_hidden_units=meter.MLP,
            l2_reg_cross=0,
            **words,
        )
    return models.MMOE(
        fields,
        num_experts=meter.NUM_EXPERTS,
        expert_dnn_hidden_units=meter.EXPERT,
        gate_dnn_hidden_units=(),
        tower_dnn_hidden_units=meter.TOWER,
        task_types=["binary"] * len(job.tasks),
        task_names=job.tasks,
        **words,
    )


if __name__ == "__main__":
    main()
