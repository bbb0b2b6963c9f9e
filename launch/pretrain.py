"""Train the upstream model.

``python -m launch.ranks --nproc-per-node 2 -m launch.pretrain configs/pretrain/debug.yaml``
"""

import sys

from lfm4ads.core.command import main
from lfm4ads.stages.pretrain import Config, run

if __name__ == "__main__":
    sys.exit(main(Config, run))
