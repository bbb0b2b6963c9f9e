"""Look inside a trained upstream and its representations.

``python -m launch.ranks --nproc-per-node 2 -m launch.analyse configs/analyse/debug.yaml``
"""

import sys

from lfm4ads.core.command import main
from lfm4ads.stages.analyse import Config, run

if __name__ == "__main__":
    sys.exit(main(Config, run))
