"""What every ``launch/<stage>.py`` does: parse, join the ranks, run, fail in one sentence."""

import os
import sys
from collections.abc import Callable
from typing import TypeVar

from lfm4ads.core.config import load_config
from lfm4ads.core.errors import UserError
from lfm4ads.core.log import open_log
from lfm4ads.core.ranks import Ranks, open_ranks

T = TypeVar("T")


def _fail(error: UserError | OSError) -> int:
    rank = int(os.environ.get("RANK", "0"))
    if isinstance(error, OSError):
        sentence, everywhere = (
            f"{error.filename or 'input/output'}: {error.strerror or error}",
            False,
        )
    else:
        sentence, everywhere = str(error), error.everywhere
    if rank == 0 or not everywhere:
        where = "" if rank == 0 else f"[rank {rank}] "
        sys.stderr.write(f"{where}error: {sentence}\n")
    return 2


def main(schema: type[T], run: Callable[[T, Ranks], object]) -> int:
    """Run one stage from ``sys.argv``; return the exit status (2 for a mistake of the user's)."""
    try:
        config = load_config(schema, sys.argv[1:])
    except UserError as error:
        return _fail(UserError(str(error), everywhere=True))
    try:
        with open_ranks() as ranks:
            open_log(ranks)
            run(config, ranks)
    except (UserError, OSError) as error:
        return _fail(error)
    return 0
