"""``python -m launch.plan configs/plan/<name>.yaml [key=value ...]``: tables onto a cluster.

One process without ranks: it joins no process group and needs no accelerator.
"""

import sys
from collections.abc import Sequence

from lfm4ads.core.alone import run_alone
from lfm4ads.core.config import load_config
from lfm4ads.stages.plan import Config, run


def main(argv: Sequence[str]) -> int:
    """Return the exit status: 0, or 2 for a mistake of the user's."""
    return run_alone(lambda: print(run(load_config(Config, argv))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
