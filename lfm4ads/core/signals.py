"""What a process does when it is told to stop, or when the one that started it ends."""

import ctypes
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that the kernel sends when the parent ends."""


class StopSignal:
    """Remembers that SIGTERM or SIGINT came, so that all ranks leave after the same step."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Remember signals in a block, in which they do not end the process by themselves."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        former = {number: signal.signal(number, lambda *_: self._event.set()) for number in numbers}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    @property
    def is_set(self) -> bool:
        """Whether a signal has come to this rank."""
        return self._event.is_set()


def end_with_parent() -> None:
    """See that this rank goes when torchrun goes, however that ends.

    Ranks without their agent train on, and the next start of the same command would share the run
    folder with them.
    """
    if sys.platform == "linux":
        # Had it gone before, there were no store to meet at, and this rank would get no further.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
