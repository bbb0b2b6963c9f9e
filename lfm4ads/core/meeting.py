"""A name for one start of a job that no earlier start of it has used.

torchrun (torch 2.13) keeps one store for all starts of a job. Ranks of a second start found the
addresses of the first there and called dead processes; and the count of restarts, which could tell
starts apart, differs between nodes.
"""

import time
import uuid

from lfm4ads.core.errors import AbsentError
from lfm4ads.core.watch import Board

_PAUSE_SECONDS = 0.05


def agree_on_name(board: Board, *, rank: int, world: int, timeout_seconds: float) -> str:
    """Return a name that the ranks of this start share and no other start has. Collective.

    A rank says a word that only it knows. Rank 0 echoes it with the name: so the rank knows that
    this rank 0 lives, and rank 0, which waits for an answer under its new name, that the rank does.

    Raises:
        AbsentError: a rank did not come in time.
    """
    patience = time.monotonic() + timeout_seconds
    if rank == 0:
        return _invite(board, world=world, patience=patience)
    word = uuid.uuid4().hex
    board.set(f"hello/{rank}", word)
    while time.monotonic() < patience:
        if board.check([f"echo/{rank}"]):
            heard, name = board.get(f"echo/{rank}").decode().split()
            if heard == word:
                board.set(f"{name}/{rank}", "1")
                return name
        time.sleep(_PAUSE_SECONDS)
    raise AbsentError(f"rank {rank} heard nothing of rank 0; see what that said, and start again")


def _invite(board: Board, *, world: int, patience: float) -> str:
    name, words = uuid.uuid4().hex, dict.fromkeys(range(1, world), "")
    missing = list(words)
    while missing:
        for rank in missing:
            if board.check([f"hello/{rank}"]):
                word = board.get(f"hello/{rank}").decode()
                if word != words[rank]:  # an earlier start's, or this one's at last
                    words[rank] = word
                    board.set(f"echo/{rank}", f"{word} {name}")
        missing = [rank for rank in missing if not board.check([f"{name}/{rank}"])]
        if time.monotonic() > patience:
            shown = ", ".join(map(str, missing[:8]))
            raise AbsentError(f"ranks {shown} did not come to the start; see what they said")
        time.sleep(_PAUSE_SECONDS if missing else 0)
    return name
