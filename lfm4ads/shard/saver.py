"""Saving checkpoints while training goes on."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lfm4ads.core.checkpoint import save_checkpoint
from lfm4ads.core.generations import keep_newest
from lfm4ads.core.log import log
from lfm4ads.core.ranks import Ranks, beside
from lfm4ads.shard.sharded import Sharded
from lfm4ads.shard.state import TABLES, full_state
from lfm4ads.shard.whole import map_tensors


@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """How checkpoints are written and which are kept."""

    asynchronous: bool = False
    """Write in a thread from a copy in host memory: training stands still for the copy alone, and
    every rank takes as much memory again as its share of the state."""
    keep_last: int = 0
    """Days whose checkpoints are kept, the newest ones; 0 keeps all, which dump needs."""

    def __post_init__(self) -> None:
        if self.keep_last < 0:
            raise ValueError(f"save.keep_last must not be negative, got {self.keep_last}")


class Saver:
    """Writes the checkpoints of one run, at most one at a time.

    All ranks make one together. What a thread could not write is raised on all ranks by the next
    ``save`` or ``wait``.
    """

    def __init__(self, sharded: Sharded, *, config: SaveConfig) -> None:
        self._sharded = sharded
        self._config = config
        self._ranks = sharded.ranks
        self._copies: dict[str, Tensor] = {}
        self._pending: Future[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        if config.asynchronous:
            self._ranks = beside(sharded.ranks)
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def save(
        self, folder: Path, *, meta: dict[str, Any], former: str = "", rolling: str = ""
    ) -> float:
        """Write a checkpoint, or begin to; return the seconds that training stood still.

        Collective.

        Args:
            folder: Where to.
            meta: What the loop needs to go on; not changed after.
            former: Name under which a former checkpoint of the folder is kept.
            rolling: Pattern of those of which the newest are kept, this one among them.
        """
        started = time.monotonic()
        self.wait()
        state, cuts = full_state(self._sharded)
        job = _Write(folder, meta, {TABLES: cuts}, former, rolling, self._config.keep_last)
        if self._thread is None:
            job.run(state, self._ranks)
        else:
            copied = map_tensors(state, self._to_host)
            if self._ranks.device.type == "cuda":
                torch.cuda.synchronize(self._ranks.device)
            self._pending = self._thread.submit(job.run, copied, self._ranks)
        stalled = time.monotonic() - started
        log.info("checkpoint %s: training stood still for %.2f s", folder.name, stalled)
        return stalled

    @property
    def is_idle(self) -> bool:
        """Whether this rank has nothing under way. Not collective."""
        return self._pending is None or self._pending.done()

    def wait(self) -> None:
        """Wait until what was begun is on the disk. Collective."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        with self._sharded.ranks.together():
            pending.result()

    def close(self) -> None:
        """Wait for this rank's write whatever became of the run. Not collective."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None

    def _to_host(self, name: str, tensor: Tensor) -> Tensor:
        """Return a copy in memory that is used again by the next save: fresh pages are slow."""
        copy = self._copies.get(name)
        if copy is None or copy.shape != tensor.shape:
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._copies[name] = copy
        return copy.copy_(tensor.detach(), non_blocking=True)


@dataclass(frozen=True)
class _Write:
    """One checkpoint to be written, from any thread."""

    folder: Path
    meta: dict[str, Any]
    notes: dict[str, Any]
    former: str
    rolling: str
    keep_last: int

    def run(self, state: dict[str, Any], ranks: Ranks) -> None:
        """Write it, then remove those that are no longer kept. Collective."""
        save_checkpoint(
            self.folder, state, meta=self.meta, ranks=ranks, notes=self.notes, former=self.former
        )
        if self.rolling and self.keep_last:
            with ranks.together():
                if ranks.is_first:
                    keep_newest(self.folder.parent, pattern=self.rolling, count=self.keep_last)
