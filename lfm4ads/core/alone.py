"""Stages of one process: a mistake of the user's ends in one sentence. Loads no torch."""

import sys
from collections.abc import Callable

from lfm4ads.core.errors import UserError


def run_alone(work: Callable[[], None]) -> int:
    """Return the exit status: 0, or 2 for a mistake of the user's."""
    try:
        work()
    except (UserError, OSError) as error:
        sentence = str(error)
        if isinstance(error, OSError):
            sentence = f"{error.filename or 'input/output'}: {error.strerror or error}"
        sys.stderr.write(f"error: {sentence}\n")
        return 2
    return 0
