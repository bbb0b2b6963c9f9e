"""A watch over the exchanges of a job: one that does not come back ends every rank, with a reason.

A thread in each rank looks where the main thread is. When it has waited in one exchange for too
long, all ranks write down where they are, one of them says who is missing, and all leave.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

GONE = 75
"""Exit status of a rank that left because another one did not arrive, and has said so; EX_TEMPFAIL
of sysexits.h."""

_EXCHANGES = (
    "torch/distributed/distributed_c10d.py",
    "torch/nn/parallel/distributed.py",
    "torch/autograd/graph.py",  # the backward pass, in which DDP and TorchRec exchange
    "torchrec/distributed/",
)
_PACKAGE = f"{Path(__file__).parents[1]}/"


class Board(Protocol):
    """Where ranks leave notes for one another; torch's stores are such."""

    def set(self, key: str, value: str, /) -> object:
        """Write a note."""

    def get(self, key: str, /) -> bytes:
        """Read a note that is there."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """Return whether all of these notes are there."""
        ...

    def add(self, key: str, amount: int, /) -> int:
        """Add to a number and return it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a rank is."""

    rank: int
    count: int
    """Exchanges of host arrays it has been through."""
    words: str
    """What it said it was doing."""
    call: str
    """Function and line."""
    waits: bool
    """It is in an exchange, not on its way to one."""


def place_of(frame: FrameType | None, *, rank: int, count: int, words: str) -> Place:
    """Say where a thread is, given its innermost frame."""
    waits = frame is not None and any(part in frame.f_code.co_filename for part in _EXCHANGES)
    inner = frame.f_code.co_name if frame else "nothing"
    own = frame
    while own is not None and not _is_own(own):
        own = own.f_back
    at = own or frame
    if at is None:
        return Place(rank=rank, count=count, words=words, call=inner, waits=waits)
    path = at.f_code.co_filename
    where = f"lfm4ads/{path.removeprefix(_PACKAGE)}" if path.startswith(_PACKAGE) else path
    via = "" if at is frame else f"{inner}, called by "
    call = f"{via}{at.f_code.co_name} ({where}:{at.f_lineno})"
    return Place(rank=rank, count=count, words=words, call=call, waits=waits)


def _is_own(frame: FrameType) -> bool:
    # Every exchange of host arrays goes through core/ranks.py; who asked for it is what matters.
    # A folder name would not do: a .venv inside a checkout has the checkout's name in its paths.
    path = frame.f_code.co_filename
    return path.startswith(_PACKAGE) and path != f"{_PACKAGE}core/ranks.py"


def explain(places: Sequence[Place], *, world: int, seconds: float) -> str:
    """Return who did not arrive, where the others wait for them, and where the missing are."""
    furthest = max((place.count for place in places if place.waits), default=0)
    arrived = [place for place in places if place.waits and place.count == furthest]
    known = {place.rank: place for place in places}
    missing = [rank for rank in range(world) if known.get(rank) not in arrived]
    hint = "; if they need longer, set LFM4ADS_TIMEOUT_SECONDS"
    if not missing:
        calls = ", ".join(f"rank {place.rank} in {_at(place)}" for place in arrived)
        return f"no rank came out of an exchange for {seconds:g} s: {calls}{hint}"
    first = f"{_names(missing)} did not arrive within {seconds:g} s"
    if arrived:
        others = _names([place.rank for place in arrived])
        first += f" where {others} {'waits' if len(arrived) == 1 else 'wait'}: {_at(arrived[0])}"
    # A thousand ranks would not fit into a sentence.
    whereabouts = [
        f"rank {rank} is in {_at(known[rank])}" if rank in known else f"rank {rank} gives no answer"
        for rank in missing[:4]
    ]
    return f"{first}; {', '.join(whereabouts)}{hint}"


def _at(place: Place) -> str:
    return f"{place.call}{f', {place.words}' if place.words else ''}"


def _names(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    shown = ", ".join(map(str, ranks[:8]))
    return f"ranks {shown}{f' and {len(ranks) - 8} more' if len(ranks) > 8 else ''}"


def _frame_of(thread: int) -> FrameType | None:
    frames = sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - its only name
    return frames.get(thread)


class Watch:
    """The watch of one rank. Made in the thread that it watches."""

    def __init__(self, board: Board, *, rank: int, world: int, timeout_seconds: float) -> None:
        self._board, self._rank, self._world = board, rank, world
        self._seconds = timeout_seconds
        self._tick_seconds = min(5.0, max(0.1, timeout_seconds / 20))
        self._count, self._words = 0, ""
        self._watched = threading.get_ident()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no longer."""
        self._over.set()
        self._thread.join()

    def passed(self) -> None:
        """Note that this rank has come out of an exchange."""
        self._count += 1

    def at(self, words: str) -> None:
        """Note what this rank is about to do."""
        self._words = words

    def _run(self) -> None:
        try:
            self._look()
        except RuntimeError:
            # The board is gone, and its host with it: the main thread's next exchange fails too.
            return

    def _look(self) -> None:
        since, before = time.monotonic(), (0, 0, 0)
        while not self._over.wait(self._tick_seconds):
            if self._board.check(["alarm"]):
                self._leave()
            frame = _frame_of(self._watched)
            seen = (self._count, id(frame), frame.f_lasti if frame else 0)
            if seen != before or not self._place(frame).waits:
                since, before = time.monotonic(), seen
            elif time.monotonic() - since > self._seconds:
                self._board.set("alarm", str(self._rank))
                self._leave()
            del frame  # it would keep the tensors of a step alive

    def _place(self, frame: FrameType | None) -> Place:
        return place_of(frame, rank=self._rank, count=self._count, words=self._words)

    def _leave(self) -> None:
        """Write down where this rank is, see that one rank says what happened, and end."""
        place = self._place(_frame_of(self._watched))
        self._board.set(f"place/{self._rank}", json.dumps(asdict(place)))
        # As soon as one rank ends torchrun ends the others: none goes before it is said why.
        if self._board.add("speaker", 1) == 1:
            sys.stderr.write(f"error: {self._sentence()}\n")
            sys.stderr.flush()
            self._board.set("said", "1")
        else:
            self._wait_for(["said"])
        os._exit(GONE)

    def _sentence(self) -> str:
        keys = [f"place/{rank}" for rank in range(self._world)]
        self._wait_for(keys)
        there = [key for key in keys if self._board.check([key])]
        places = [Place(**json.loads(self._board.get(key))) for key in there]
        return explain(places, world=self._world, seconds=self._seconds)

    def _wait_for(self, keys: list[str]) -> None:
        """Wait until notes are there, or a live rank would have written them."""
        patience = time.monotonic() + 2 + 3 * self._tick_seconds
        while time.monotonic() < patience and not self._board.check(keys):
            time.sleep(0.05)
