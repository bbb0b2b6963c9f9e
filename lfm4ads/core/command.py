"""What every ``launch/<stage>.py`` does: join the ranks, parse, run, fail in one sentence.

Exit status: 0 done, 2 a mistake of the user's, 75 another rank is gone or did not arrive, 143 told
to stop and stopped.
"""

import sys
from collections.abc import Callable
from typing import TypeVar

from lfm4ads.core.config import load_config
from lfm4ads.core.errors import AbsentError, StoppedError, UserError
from lfm4ads.core.log import open_log
from lfm4ads.core.ranks import Ranks, broken_exchange, open_ranks
from lfm4ads.core.watch import GONE

T = TypeVar("T")

MISTAKE = 2
STOPPED = 143
"""What a shell makes of SIGTERM."""


def _fail(error: UserError, ranks: Ranks) -> int:
    if ranks.is_first or not error.everywhere:
        where = "" if ranks.is_first else f"[rank {ranks.rank}] "
        sys.stderr.write(f"{where}error: {error}\n")
    if error.everywhere:
        # torchrun stops all ranks as soon as one is gone: none leaves before rank 0 has spoken.
        ranks.barrier()
    return STOPPED if isinstance(error, StoppedError) else MISTAKE


def _lost(error: RuntimeError, where: str) -> int:
    """Say that another rank is gone; what is no broken exchange is a bug and raised again."""
    how = broken_exchange(error)
    if not how:
        raise error
    sys.stderr.write(
        f"{where}error: another rank is gone ({how}); what it says comes first,"
        " and the same command goes on from what is saved\n"
    )
    return GONE


def main(schema: type[T], run: Callable[[T, Ranks], object]) -> int:
    """Run one stage from ``sys.argv``; return the exit status."""
    try:
        with open_ranks() as ranks:
            return _run(schema, run, ranks=ranks)
    except UserError as error:  # of the start: there are no ranks yet of which one speaks for all
        sys.stderr.write(f"error: {error}\n")
        return GONE if isinstance(error, AbsentError) else MISTAKE
    except RuntimeError as error:
        return _lost(error, "")


def _run(schema: type[T], run: Callable[[T, Ranks], object], *, ranks: Ranks) -> int:
    open_log(ranks)
    try:
        with ranks.together():
            config = load_config(schema, sys.argv[1:])
        run(config, ranks)
    except OSError as error:
        where = error.filename or "input/output"
        return _fail(UserError(f"{where}: {error.strerror or error}"), ranks)
    except UserError as error:
        return _fail(error, ranks)
    except RuntimeError as error:
        return _lost(error, f"[rank {ranks.rank}] ")
    return 0
