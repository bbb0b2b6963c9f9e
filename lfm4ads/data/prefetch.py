"""Run an iterator ahead in a thread: pyarrow and numpy release the GIL, so no process is needed."""

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True)
class _End:
    error: BaseException | None


def prefetch(items: Iterable[T], *, depth: int) -> Iterator[T]:
    """Yield ``items`` in order; an error comes where it belongs.

    At most ``depth`` items wait, and one is in the making. Leaving the loop early stops the thread.
    """
    ready: queue.Queue[_Item[T] | _End] = queue.Queue(maxsize=depth)
    stop = threading.Event()
    arguments = {"ready": ready, "stop": stop}
    thread = threading.Thread(
        target=_fill, args=(items,), kwargs=arguments, name="prefetch", daemon=True
    )
    thread.start()
    try:
        while isinstance(entry := ready.get(), _Item):
            yield entry.value
        if entry.error is not None:
            raise entry.error
    finally:
        stop.set()
        thread.join()


def _fill(
    items: Iterable[T], *, ready: queue.Queue[_Item[T] | _End], stop: threading.Event
) -> None:
    error: BaseException | None = None
    try:
        for item in items:
            _put(_Item(item), ready=ready, stop=stop)
            if stop.is_set():
                return
    except BaseException as caught:  # noqa: BLE001 - handed to the consumer, which raises it
        error = caught
    _put(_End(error), ready=ready, stop=stop)


def _put(
    entry: _Item[T] | _End, *, ready: queue.Queue[_Item[T] | _End], stop: threading.Event
) -> None:
    """Put unless the consumer has left: a full queue would hold the thread for good."""
    while not stop.is_set():
        try:
            ready.put(entry, timeout=0.1)
        except queue.Full:
            continue
        return
