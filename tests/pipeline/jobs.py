"""Stages run inside a job of gloo ranks, told what to do in the words of their command line."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from lfm4ads.core.config import load_config
from lfm4ads.core.errors import UserError
from lfm4ads.core.log import MetricsLog, log, open_log
from lfm4ads.stages import dump, pretrain, report, transfer
from tests.gloo import run_ranks

ROOT = Path(__file__).parents[2]
STAGES = {"pretrain": pretrain, "dump": dump, "transfer": transfer, "report": report}
SECONDS = 500
"""A job hangs if it takes longer: fifty times what one takes on an idle machine."""


@dataclass(frozen=True)
class Job:
    """``python -m launch.<stage> configs/<stage>/debug.yaml <words>``."""

    stage: str
    words: tuple[str, ...]


def job(stage: str, **words: object) -> Job:
    """Return a job; a point of a key is written as two underscores."""
    pairs = ((key.replace("__", "."), _word(value)) for key, value in words.items())
    return Job(stage, tuple(f"{key}={value}" for key, value in pairs))


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_word(one)}" for key, one in value.items()) + "}"
    return str(value)


def do(ranks, jobs):
    """Run jobs one after the other; return what each raised, or None, as on every launch."""
    torch.set_flush_denormal(True)
    open_log(ranks)
    log.setLevel("WARNING")
    return [_try(ranks, one) for one in jobs]


def _try(ranks, one):
    stage = STAGES[one.stage]
    try:
        with ranks.together():
            path = ROOT / "configs" / one.stage / "debug.yaml"
            config = load_config(stage.Config, [str(path), *one.words])
        stage.run(config, ranks)
    except UserError as error:
        return str(error), error.everywhere
    return None


def run_jobs(world, *jobs):
    """Run jobs that must end well on some ranks."""
    for results in run_ranks(do, world, jobs, seconds=SECONDS):
        assert results == [None] * len(jobs)


def do_until_scored(ranks, one, split):
    """Run a job that is killed on the spot when rank 0 has written the scores of a split."""
    write = MetricsLog.write

    def write_and_die(self, name, value, *, step, split, unit=""):
        write(self, name, value, step=step, split=split, unit=unit)
        if split == until and ranks.is_first:
            os.kill(os.getpid(), signal.SIGKILL)

    until = split
    MetricsLog.write = write_and_die
    return do(ranks, [one])


def tensors_of(checkpoint: Path, *, at: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a checkpoint, put together from its shards, by path of keys."""
    dcp_to_torch_save(checkpoint, at)
    return dict(_flat(torch.load(at, weights_only=False), ""))


def _flat(tree, prefix):
    for key, value in tree.items():
        name = f"{prefix}/{key}"
        if isinstance(value, dict):
            yield from _flat(value, name)
        else:
            assert isinstance(value, torch.Tensor), name
            yield name, value


def assert_same_checkpoint(one: Path, other: Path, *, scratch: Path) -> None:
    """Compare two checkpoints to the last bit."""
    first, second = (tensors_of(path, at=scratch / "whole.pt") for path in (one, other))
    assert first.keys() == second.keys()
    assert len(first) > 10
    different = [name for name, value in first.items() if not torch.equal(value, second[name])]
    assert different == []
