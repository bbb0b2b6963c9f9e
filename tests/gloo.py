"""Run a test body on several gloo ranks of this machine.

A preloaded forkserver starts a rank in under a second; ranks meet in a file, so no port is ever
fixed.
"""

import multiprocessing
import pickle
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lfm4ads.core.ranks import connect

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torchrec", "pyarrow.parquet", "lfm4ads.core.ranks"])


def _enter(
    body: Callable[..., Any],
    rank: int,
    world: int,
    folder: str,
    seconds: int,
    host_ranks: int | None,
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    out = Path(folder) / f"result-{rank}"
    try:
        store = dist.FileStore(f"{folder}/store", world)
        ranks = connect(rank, world, store, timeout_seconds=seconds - 10, host_ranks=host_ranks)
        value = (True, body(ranks, *arguments))
        dist.destroy_process_group()
    except BaseException:  # noqa: BLE001 - the parent test reports it
        value = (False, traceback.format_exc())
    out.write_bytes(pickle.dumps(value))


def run_ranks(
    body: Callable[..., Any],
    world: int,
    *arguments: Any,
    seconds: int = 110,
    host_ranks: int | None = None,
) -> list[Any]:
    """Call ``body(ranks, *arguments)`` on ``world`` ranks; return the results in rank order.

    ``body`` must be a function of a module, so that a rank can import it. A rank that hangs is
    killed after ``seconds``. ``host_ranks`` of them pretend to be on one host; all by default.
    """
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            _CONTEXT.Process(
                target=_enter, args=(body, rank, world, folder, seconds, host_ranks, arguments)
            )
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(seconds)
            if process.is_alive():
                process.kill()
        results = []
        for rank in range(world):
            path = Path(folder) / f"result-{rank}"
            done, value = (
                pickle.loads(path.read_bytes()) if path.exists() else (False, "died or hung")
            )
            if not done:
                raise AssertionError(f"rank {rank} of {world}: {value}")
            results.append(value)
        return results
