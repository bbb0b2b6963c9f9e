"""Stages run inside a job of gloo ranks, told what to do in the words of their command line."""

import hashlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from lfm4ads.core.config import load_config
from lfm4ads.core.errors import UserError
from lfm4ads.core.log import MetricsLog, log, open_log
from lfm4ads.data.reader import Reader
from lfm4ads.shard.sharded import Sharded
from lfm4ads.shard.state import copy_weights
from lfm4ads.stages import dump, pretrain, report, transfer
from lfm4ads.train.daily import Daily
from tests.gloo import run_ranks

ROOT = Path(__file__).parents[2]
STAGES = {"pretrain": pretrain, "dump": dump, "transfer": transfer, "report": report}
SECONDS = 500
"""A job hangs if it takes longer: fifty times what one takes on an idle machine."""


@dataclass(frozen=True)
class Job:
    """``python -m launch.<stage> configs/<stage>/<config>.yaml <words>``."""

    stage: str
    words: tuple[str, ...]
    config: str = "debug"


def job(stage: str, **words: object) -> Job:
    """Return a job; a point of a key is written as two underscores."""
    pairs = ((key.replace("__", "."), _word(value)) for key, value in words.items())
    return Job(stage, tuple(f"{key}={value}" for key, value in pairs))


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_word, value)) + "]"
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
            path = ROOT / "configs" / one.stage / f"{one.config}.yaml"
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


def everything(
    *, behaviours: str, target: str, user: str, item: str, number: str, repeat: str
) -> dict[str, object]:
    """Return the words that turn everything on, given the names of a schema's features.

    Rows that train without pair fields are drawn by each rank, so there are none.
    """
    shape = {"interaction": {"layers": 2}, "hidden": [32]}
    flat = {"tables": "wide", "interaction": {"kind": "flat"}, "hidden": [32]}
    schedule = {"warmup_steps": 5, "kind": "cosine", "decay_steps": 40}
    model = {
        "sets": {"main": {"dim": 16}, "wide": {"dim": 24}},
        "fields": {
            "number": {
                "kind": "equal_frequency", "dim": 16, "levels": 64, "kinds": {number: "integer"},
            },
            "vector": {"dim": 16, "codes": {item: 8}},
        },
        "pairs": {
            "dropout": 0,
            "interests": {"views": {"behaviours": [behaviours], "targets": [target]}},
            "similarities": {"alike": {"user": user, "item": item}},
        },
        "tower": {"hidden": [32], "rep_dim": 48, "token_dim": 24},
        "mix": {
            "experts": {"cross": shape, "flat": flat}, "merge": {"kind": "gate"}, "hidden": [16],
        },
        "heads": {"kind": "sngp", "features": 64, "spectral": 0.95},
    }  # fmt: skip
    return {
        "days__wait_days": {"conversion": 1},
        "write_scores": True,
        "explore__kind": "ucb",
        "explore__temperature": 0.5,
        "loss": {
            "rank": "pair",
            "balance": "task",
            "repeat": {"feature": repeat},
            "domain_weights": {"ads": 2.0},
        },
        "model": model,
        "shard__optim": {
            "dense_schedule": schedule,
            "sparse_schedule": {"warmup_steps": 5},
            "sparse_clip": 0.001,
        },
    }


def do_until_saved(ranks, one, kind):
    """Run a job that is killed on the spot when it has saved inside a second pass of some kind."""
    save = Daily._save
    seen = []

    def save_and_die(self, name, *, day):
        save(self, name, day=day)
        item = self.work.items[min(self.position.index, len(self.work.items) - 1)]
        if name == "last" and item.kind == kind:
            seen.append(1)
            ranks.barrier()
            if len(seen) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    Daily._save = save_and_die
    return do(ranks, [one])


def do_with_rates(ranks, one):
    """Run a job; return the steps for which it asked for learning rates."""
    set_rates, steps = Sharded.set_rates, []

    def asking(self, step):
        steps.append(step)
        set_rates(self, step)

    Sharded.set_rates = asking
    sentences = do(ranks, [one])
    assert sentences == [None], sentences
    return steps


def do_watched(ranks, jobs):
    """Run jobs; return for each what ``Daily`` did: days read, with which labels, and weights."""
    read, keep, events = Reader.day, Daily._keep, []

    def reading(self, day, *, epoch=0, start_step=0):
        events.append(("score" if self._final_labels else "train", day))
        return read(self, day, epoch=epoch, start_step=start_step)

    def weights(daily):
        parts = copy_weights(daily.sharded).values()
        return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()

    def keeping(self, day):
        keep(self, day)
        events.append(("kept", day, weights(self)))

    def run(self):
        while self.position.index < len(self.work.items):
            item = self.work.items[self.position.index]
            events.append(("work", item.kind, item.day))
            self._do(item)
        events.append(("end", 0, weights(self)))

    Reader.day, Daily._keep, Daily.run = reading, keeping, run
    found = []
    for one in jobs:
        events.clear()
        sentences = do(ranks, [one])
        assert sentences == [None], sentences
        found.append(list(events))
    return found


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
