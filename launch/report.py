"""``python -m launch.report configs/report/demo.yaml [key=value ...]``: runs in, one page out."""

import sys

from lfm4ads.core.command import main
from lfm4ads.stages.report import Config, run

if __name__ == "__main__":
    sys.exit(main(Config, run))
