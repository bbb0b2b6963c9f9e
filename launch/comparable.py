"""``python -m launch.comparable configs/comparable/debug.yaml``: one study of runs."""

import sys

from lfm4ads.core.command import main
from lfm4ads.stages.comparable import Config, run

if __name__ == "__main__":
    sys.exit(main(Config, run))
