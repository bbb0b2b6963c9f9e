"""torchrun without the noise: ``python -m launch.ranks --nproc-per-node 2 -m launch.<stage> ...``.

The words are torchrun's; without one that says where to meet, the ranks meet on a free port of
this machine. torchrun buries the sentence of a rank that fails under its own log and traceback:
here a mistake of the user's (exit status 2) ends with that sentence alone, anything else with one.
"""

import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import ProcessFailure, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError

USER_ERROR = 2
"""Exit status of a rank that has told the user what to mend."""
SPOKEN = (USER_ERROR, 75, 143)
"""Those of ranks that have said why they end: 75, another is missing; 143, told to stop."""


def threads_per_rank(processes: str) -> int:
    """Return the cores of this machine that each of ``processes`` (a number, gpu, auto) gets."""
    number = torchrun.determine_local_world_size(processes)
    if number < 1:
        raise ValueError(f"{number} is not a number of processes")
    return max(1, len(os.sched_getaffinity(0)) // number)


def first_cause(failures: Mapping[int, ProcessFailure]) -> tuple[int, int]:
    """Return the rank whose failure explains the others', and its exit code.

    A rank that goes takes its peers with it: they fail in their next exchange, or are sent SIGTERM
    and, much later, SIGKILL. So among what failed within a second of the first, a rank that was
    killed comes before a mistake of the user's, that before other errors, and SIGTERM last.
    """
    begin = min(failure.timestamp for failure in failures.values())
    codes = {
        rank: failure.exitcode
        for rank, failure in failures.items()
        if failure.timestamp <= begin + 1
    }
    rank = min(codes, key=lambda rank: _order(codes[rank]))
    return rank, codes[rank]


def _order(code: int) -> int:
    if code == -signal.SIGTERM:
        return 3
    if code < 0:
        return 0
    return 1 if code == USER_ERROR else 2


def _end(rank: int, code: int) -> int:
    """Say how a rank ended unless it has said so itself; return the exit status."""
    if code in SPOKEN:
        return code
    if code > 0:
        return _fail(f"rank {rank} failed with exit code {code}", status=code)
    hint = "; often the machine is out of memory" if code == -signal.SIGKILL else ""
    return _fail(f"rank {rank} was killed by {signal.Signals(-code).name}{hint}", status=1)


def _fail(sentence: str, *, status: int) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return status


def main(words: Sequence[str]) -> int:
    """Start ranks as torchrun does and wait for them; return the exit status."""
    arguments = torchrun.parse_args(words)
    try:
        threads = threads_per_rank(arguments.nproc_per_node)
    except ValueError as error:
        return _fail(f"--nproc-per-node {arguments.nproc_per_node}: {error}", status=USER_ERROR)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # the ranks inherit it
    logging.disable(logging.ERROR)  # torchrun's own log; the ranks are other processes
    try:
        torchrun.run(arguments)
    except ChildFailedError as error:
        return _end(*first_cause(error.failures))
    except SignalException as error:
        return _fail(f"stopped by {error.sigval.name}, and the ranks with it", status=1)
    except RendezvousError as error:
        why = " ".join(str(error).split()) or type(error).__name__
        place = arguments.rdzv_endpoint
        return _fail(f"the ranks could not meet at {place} ({why}); see --rdzv-endpoint", status=1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
