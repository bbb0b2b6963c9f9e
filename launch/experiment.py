"""``python -m launch.experiment configs/experiments/<name>.yaml``: variants, seeds, one table."""

import sys

from lfm4ads.core.command import main
from lfm4ads.stages.experiment import Config, run

if __name__ == "__main__":
    sys.exit(main(Config, run))
