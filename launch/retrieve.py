"""Train Standalone Retrieval, index the items and write every user's top K.

``python -m launch.ranks --nproc-per-node 2 -m launch.retrieve configs/retrieve/debug.yaml``
"""

import sys

from lfm4ads.core.command import main
from lfm4ads.stages.retrieve import Config, run

if __name__ == "__main__":
    sys.exit(main(Config, run))
