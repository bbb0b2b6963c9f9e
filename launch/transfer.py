"""Train downstream models with and without what the upstream model knows.

``python -m launch.ranks --nproc-per-node 2 -m launch.transfer configs/transfer/debug.yaml``
"""

import sys

from lfm4ads.core.command import main
from lfm4ads.stages.transfer import Config, run

if __name__ == "__main__":
    sys.exit(main(Config, run))
