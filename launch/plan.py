"""``python -m launch.plan configs/plan/<name>.yaml [key=value ...]``: tables onto a cluster.

One process without ranks: it joins no process group and needs no accelerator.
"""

import sys
from collections.abc import Sequence

from lfm4ads.core.config import load_config
from lfm4ads.core.errors import UserError
from lfm4ads.stages.plan import Config, run


def main(argv: Sequence[str]) -> int:
    """Return the exit status: 0, or 2 for a mistake of the user's."""
    try:
        print(run(load_config(Config, argv)))
    except (UserError, OSError) as error:
        sentence = str(error)
        if isinstance(error, OSError):
            sentence = f"{error.filename or 'input/output'}: {error.strerror or error}"
        sys.stderr.write(f"error: {sentence}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
