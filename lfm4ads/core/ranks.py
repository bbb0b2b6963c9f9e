"""The processes of one job: who am I, how do we agree, how do arrays move between us.

Only this module and ``lfm4ads/shard`` import ``torch.distributed``. Arrays are exchanged on the CPU
through gloo whatever the device of the model, because metrics, keys and errors live in host memory.
"""

import gc
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore, Store  # pyright: ignore[reportPrivateImportUsage] - documented, absent from __all__
from torch.distributed.rendezvous import rendezvous

from lfm4ads.core.errors import StoppedError, UserError
from lfm4ads.core.meeting import agree_on_name
from lfm4ads.core.signals import StopSignal, end_with_parent
from lfm4ads.core.watch import Watch

Array = npt.NDArray[Any]

DEFAULT_TIMEOUT_SECONDS = 600.0
"""How long a rank waits for another in an exchange; LFM4ADS_TIMEOUT_SECONDS gives another."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among its peers; every method is collective unless it says otherwise."""

    rank: int
    world: int
    device: torch.device
    group: dist.ProcessGroup | None = field(default=None, repr=False)
    """A gloo group for host arrays; the default group may be nccl."""
    stop: StopSignal = field(default_factory=StopSignal, repr=False)
    """Whether this rank was told to stop."""
    watch: Watch | None = field(default=None, repr=False)
    """Ends a job one of whose ranks does not come to an exchange."""
    host_ranks: int = 0
    """Ranks of one host, which have consecutive numbers; 0: all of them."""
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    """How long an exchange waits for a rank that does not come."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only one that logs and writes run files. Not collective."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.barrier(group=self.group)
            self._passed()

    def at(self, words: str) -> None:
        """Note what this rank is about to do, for when it does not come back. Not collective."""
        if self.watch is not None:
            self.watch.at(words)

    def _passed(self) -> None:
        if self.watch is not None:
            self.watch.passed()

    def sum(self, values: Array) -> Array:
        """Return the element-wise sum over ranks of same-shaped arrays."""
        if self.world == 1:
            return values.copy()
        tensor = torch.from_numpy(np.array(values, copy=True))
        dist.all_reduce(tensor, group=self.group)
        self._passed()
        return tensor.numpy()

    def any(self, flag: bool, /) -> bool:  # noqa: FBT001 - the only argument: nothing to mix up
        """Return on every rank whether the flag is set on any rank."""
        return bool(self.sum(np.array([int(flag)]))[0])

    def gather(self, values: Array) -> list[Array]:
        """Return the arrays of all ranks, in rank order; lengths along axis 0 may differ."""
        return self.exchange([values] * self.world)

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        """Send ``parts[r]`` to rank r and return what every rank sent here, in rank order.

        Parts share dtype and trailing shape on all ranks; lengths along axis 0 are free. Bytes
        move, so any dtype does.
        """
        if len(parts) != self.world:
            raise ValueError(f"{len(parts)} parts for {self.world} ranks")
        if self.world == 1:
            return [parts[0]]
        shape, dtype = parts[0].shape[1:], parts[0].dtype
        sizes = torch.tensor([part.nbytes for part in parts], dtype=torch.int64)
        incoming = torch.empty_like(sizes)
        dist.all_to_all_single(incoming, sizes, group=self.group)
        sent = torch.from_numpy(
            np.concatenate(
                [np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts]
            )
        )
        received = torch.empty(int(incoming.sum()), dtype=torch.uint8)
        dist.all_to_all_single(received, sent, incoming.tolist(), sizes.tolist(), group=self.group)
        self._passed()
        pieces = torch.split(received, incoming.tolist())
        return [
            np.frombuffer(piece.numpy().tobytes(), dtype=dtype).reshape(-1, *shape)
            for piece in pieces
        ]

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return all ranks' same-shaped tensors (B, ...) as one (world * B, ...), in rank order.

        It stays on the model's device and no gradient flows through it.
        """
        mine = tensor.detach().contiguous()
        if self.world == 1:
            return mine
        pieces = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(pieces, mine)
        self._passed()
        return torch.cat(pieces)

    def broadcast(self, text: str) -> str:
        """Return rank 0's text on every rank."""
        return self.texts(text)[0]

    def texts(self, text: str) -> list[str]:
        """Return every rank's text on every rank, in rank order."""
        return [
            part.tobytes().decode()
            for part in self.gather(np.frombuffer(text.encode(), dtype=np.uint8))
        ]

    def agree(self, error: UserError | None) -> None:
        """Raise one ``UserError`` on every rank if any has one: none is left in a collective."""
        if not self.any(error is not None):
            return
        sentences = [text for text in self.texts(str(error) if error else "") if text]
        raise UserError("; ".join(dict.fromkeys(sentences)), everywhere=True)

    def leave_if_stopped(self, words: str) -> None:
        """Raise on every rank if any was told to stop; ``words`` say what becomes of the work."""
        if self.any(self.stop.is_set):
            raise StoppedError(f"stopped by a signal; {words}", everywhere=True)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block in which ranks may fail alone.

        A ``UserError`` in one becomes one on all at the block's end. The block must hold no
        collective.
        """
        error: UserError | None = None
        try:
            yield
        except UserError as caught:
            error = caught
        except OSError as caught:
            error = UserError(f"{caught.filename or 'input/output'}: {caught.strerror or caught}")
        self.agree(error)


def _pick_device(local_rank: int) -> torch.device:
    wanted = os.environ.get("LFM4ADS_DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")


def connect(
    rank: int,
    world: int,
    store: Store,
    *,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    host_ranks: int | None = None,
) -> Ranks:
    """Join ``world`` processes that meet at ``store``.

    ``host_ranks`` says how many of them a host has; by default all of them.
    """
    if host_ranks is None:
        host_ranks = world
    # TorchRec reads this variable itself, and takes a host for one of eight ranks without it.
    os.environ["LOCAL_WORLD_SIZE"] = str(host_ranks)
    device = _pick_device(int(os.environ.get("LOCAL_RANK", rank)))
    backend = "nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=timeout_seconds)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
    group = (
        dist.group.WORLD if backend == "gloo" else dist.new_group(backend="gloo", timeout=timeout)
    )
    assert isinstance(group, dist.ProcessGroup)  # an int is for ranks left out, and none is
    return Ranks(
        rank=rank,
        world=world,
        device=device,
        group=group,
        host_ranks=host_ranks,
        timeout_seconds=timeout_seconds,
    )


def beside(ranks: Ranks) -> Ranks:
    """Return the same job for another thread, whose exchanges do not meet those of this one.

    Collective. Nothing watches them: a rank that does not come ends them after the time-out.
    """
    if ranks.world == 1:
        return replace(ranks, watch=None)
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=ranks.timeout_seconds))
    assert isinstance(group, dist.ProcessGroup)  # an int is for ranks left out, and none is
    return replace(ranks, group=group, watch=None)


def _timeout_seconds() -> float:
    text = os.environ.get("LFM4ADS_TIMEOUT_SECONDS", str(DEFAULT_TIMEOUT_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UserError(
            f"LFM4ADS_TIMEOUT_SECONDS is {text!r}; give seconds, as 600, or leave it out",
            everywhere=True,
        )
    return seconds


def _join(seconds: float) -> Ranks:
    """Join the job torchrun started; its environment says where to meet."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    meeting = rendezvous("env://", timeout=timedelta(seconds=seconds))
    store, rank, world = next(meeting)
    start = agree_on_name(
        PrefixStore("meeting", store), rank=rank, world=world, timeout_seconds=seconds
    )
    # The watch speaks first: torch's own message names neither the missing rank nor the step.
    ranks = connect(
        rank,
        world,
        PrefixStore(f"job/{start}", store),
        timeout_seconds=seconds + 60,
        host_ranks=int(os.environ.get("LOCAL_WORLD_SIZE", world)),
    )
    board = PrefixStore(f"watch/{start}", store.clone())  # pyright: ignore[reportAttributeAccessIssue] - absent from its stub
    return replace(ranks, watch=Watch(board, rank=rank, world=world, timeout_seconds=seconds))


def broken_exchange(error: RuntimeError) -> str:
    """Return in a few words how an exchange with other ranks failed; nothing if none did."""
    text = str(error)
    if not isinstance(error, dist.DistError) and "gloo/" not in text:
        return ""
    return re.sub(r"^\[[^]]*gloo[^]]*\] *", "", re.split(r"\n|\. ", text)[0]).rstrip(".")


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """Join the job torchrun started, or be the only process of a job of one.

    Denormal floats are flushed to zero: they were the largest single cost of CPU training.
    """
    torch.set_flush_denormal(True)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()
    seconds = _timeout_seconds()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        ranks = connect(0, 1, HashStore())
    else:
        ranks = _join(seconds)
    if ranks.watch is not None:
        ranks.watch.start()
    try:
        with ranks.stop.listening():
            yield ranks
    finally:
        if ranks.watch is not None:
            ranks.watch.stop()
        # Models in reference cycles hold gloo's threads; left to the interpreter's exit, one in
        # thirty ranks aborted after its work was done.
        gc.collect()
        dist.destroy_process_group()
        gc.collect()
