"""Write what the upstream model knows of every user and item, day by day.

``python -m launch.ranks --nproc-per-node 2 -m launch.dump configs/dump/debug.yaml``
"""

import sys

from lfm4ads.core.command import main
from lfm4ads.stages.dump import Config, run

if __name__ == "__main__":
    sys.exit(main(Config, run))
