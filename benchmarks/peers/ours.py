"""lfm4ads on the code path of its stages, one epoch.

DCNv2 is the vanilla arm of transfer, MMoE a run of pretrain with ``model.multitask.kind=mmoe``.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.peers.meter import (
    CROSS_LAYERS,
    DAYS,
    EXPERT,
    MLP,
    NUM_EXPERTS,
    TOWER,
    Epoch,
    Job,
    measured,
    read_job,
    report,
)
from lfm4ads.core.log import MetricsLog
from lfm4ads.core.ranks import Ranks, open_ranks
from lfm4ads.core.seed import seed_torch
from lfm4ads.data.batch import Batch
from lfm4ads.data.index import Dataset, open_dataset
from lfm4ads.data.reader import Reader, ReaderConfig, scoring
from lfm4ads.data.rows import KeptRows
from lfm4ads.model.arm import ArmConfig
from lfm4ads.model.config import LfmConfig, MultitaskConfig
from lfm4ads.model.downstream import DownstreamConfig
from lfm4ads.model.lfm import Lfm
from lfm4ads.model.multitask import expand_multitask
from lfm4ads.nn.branch import MixConfig
from lfm4ads.nn.fields import FieldConfig
from lfm4ads.nn.numbers import NumberConfig
from lfm4ads.nn.tables import looked_up
from lfm4ads.nn.tower import TowerConfig
from lfm4ads.shard.optim import OptimConfig
from lfm4ads.shard.sharded import ShardConfig, shard_model
from lfm4ads.train.arms import RunConfig, Sources, build_arm
from lfm4ads.train.diagnose import explain_not_finite
from lfm4ads.train.loop import progress, train_pass
from lfm4ads.train.objective import LossConfig, Objective

_FIELDS = FieldConfig(number=NumberConfig(kind="raw"))
Forward = Callable[[Batch], Tensor]


def main() -> None:
    """Train one epoch and score."""
    job = read_job()
    torch.set_num_threads(job.threads)
    with open_ranks() as ranks:
        dataset = open_dataset(job.data, ranks)
        optim = OptimConfig(dense_lr=job.dense_lr, sparse_lr=job.table_lr)
        shard = ShardConfig(optim=optim, precision=job.precision)
        train = _dcnv2 if job.model == "dcnv2" else _mmoe
        epoch, forward = train(job, dataset, shard=shard, ranks=ranks)
        report(job, epoch, _score(job, dataset, forward, ranks=ranks))


def _dcnv2(
    job: Job, dataset: Dataset, *, shard: ShardConfig, ranks: Ranks
) -> tuple[Epoch, Forward]:
    model = DownstreamConfig(fields=_FIELDS, cross_layers=CROSS_LAYERS, mlp=MLP, dropout=0.0)
    run = RunConfig(
        name="vanilla",
        arm=ArmConfig(),
        seed=job.seed,
        domain="ads",
        tasks=("click",),
        first_day=DAYS["train"],
        align_days=False,
        reader=ReaderConfig(batch_size=job.batch_size),
        model=model,
        shard=shard,
    )
    nowhere = Path()  # the vanilla arm reads no representation and starts from no checkpoint
    sources = Sources(
        dataset=dataset,
        reps=nowhere,
        version="",
        names=(),
        upstream=LfmConfig(),
        checkpoint=nowhere,
        # The pass that sets the heads to the base rates comes before the epoch, and would leave the
        # rows in memory: the epoch has to read them from the files.
        rows=KeptRows(limit_bytes=0),
    )
    fitter = build_arm(run, sources, ranks=ranks).fitter
    with tempfile.TemporaryDirectory() as folder, measured() as epoch:
        metrics = MetricsLog(Path(folder) / "metrics.jsonl", ranks=ranks)
        fitter.roll([DAYS["train"]], metrics=metrics, stop=ranks.stop)
    return epoch, fitter.sharded.model


def _mmoe(job: Job, dataset: Dataset, *, shard: ShardConfig, ranks: Ranks) -> tuple[Epoch, Forward]:
    schema, day = dataset.schema, DAYS["train"]
    network = MultitaskConfig(
        kind="mmoe", shared_experts=NUM_EXPERTS, hidden=EXPERT, gate_hidden=()
    )
    config = LfmConfig(
        fields=_FIELDS,
        tower=TowerConfig(rep_dim=0),
        mix=MixConfig(hidden=TOWER),
        multitask=network,
    )
    seed_torch(job.seed)
    model = Lfm(schema, expand_multitask(config, tasks=list(schema.tasks)))
    sharded = shard_model(model, config=shard, ranks=ranks, seed=job.seed)
    objective = Objective(LossConfig(), schema=schema, ranks=ranks)
    reader = Reader(
        dataset,
        config=ReaderConfig(batch_size=job.batch_size),
        ranks=ranks,
        seed=job.seed,
        final_labels=False,
    )
    steps = 0

    def loss(batch: Batch) -> Tensor:
        looked = partial(looked_up, model)
        return objective(sharded.model(batch).logits, batch, step=steps, looked=looked)

    with measured() as epoch:
        batches = progress(
            reader.day(day), total=reader.num_steps(day), words=f"train {day}", ranks=ranks
        )
        train_pass(
            sharded,
            batches,
            loss=loss,
            batch_size=job.batch_size,
            explain=lambda batch: explain_not_finite(sharded, batch, schema),
            stop=ranks.stop,
            seed=job.seed,
        )
    return epoch, lambda batch: sharded.model(batch).logits


@torch.no_grad()
def _score(
    job: Job, dataset: Dataset, forward: Forward, *, ranks: Ranks
) -> npt.NDArray[np.float64]:
    config = scoring(ReaderConfig(batch_size=job.batch_size))
    reader = Reader(dataset, config=config, ranks=ranks, seed=0)
    day = DAYS[job.scored]
    scores_NT = np.zeros((dataset.rows(day), len(job.tasks)))
    for batch in reader.day(day):
        # Lanes are read side by side: the row's number says where it stood in the file.
        scores_NT[batch.row_id[batch.valid].numpy()] = forward(batch)[batch.valid].numpy()
    return scores_NT


if __name__ == "__main__":
    main()
