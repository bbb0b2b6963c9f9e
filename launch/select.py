"""Choose which representations, dims or features a downstream model reads.

``python -m launch.ranks --nproc-per-node 2 -m launch.select configs/select/debug.yaml``
"""

import sys

from lfm4ads.core.command import main
from lfm4ads.stages.select import Config, run

if __name__ == "__main__":
    sys.exit(main(Config, run))
