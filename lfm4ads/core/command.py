"""What every ``launch/<stage>.py`` does: join the ranks, parse, run, fail in one sentence."""

import sys
from collections.abc import Callable
from typing import TypeVar

from lfm4ads.core.config import load_config
from lfm4ads.core.errors import UserError
from lfm4ads.core.log import open_log
from lfm4ads.core.ranks import Ranks, open_ranks

T = TypeVar("T")


def _fail(error: UserError, ranks: Ranks) -> int:
    if ranks.is_first or not error.everywhere:
        where = "" if ranks.is_first else f"[rank {ranks.rank}] "
        sys.stderr.write(f"{where}error: {error}\n")
    if error.everywhere:
        # torchrun stops all ranks as soon as one is gone: none leaves before rank 0 has spoken.
        ranks.barrier()
    return 2


def main(schema: type[T], run: Callable[[T, Ranks], object]) -> int:
    """Run one stage from ``sys.argv``; return the exit status (2 for a mistake of the user's)."""
    with open_ranks() as ranks:
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
    return 0
