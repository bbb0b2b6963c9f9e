"""Make a dataset: ``python -m launch.prepare configs/prepare/<name>.yaml [key=value ...]``.

The config's ``dataset`` word says which converter of ``data/`` runs; one process, no accelerator.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from data.adsworld import prepare as adsworld
from data.kuairand import prepare as kuairand
from lfm4ads.core.alone import run_alone
from lfm4ads.core.config import load_config
from lfm4ads.core.errors import UserError


def dataset_word(argv: Sequence[str]) -> str:
    """Return which dataset the config names, or what is wrong with it."""
    if not argv:
        raise UserError(
            "no config was given; the first argument is a YAML file from configs/prepare/"
        )
    path = Path(argv[0])
    if not path.is_file():
        raise UserError(f"config {path} does not exist; see configs/prepare/ for what there is")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    words = [word.partition("=")[2] for word in argv[1:] if word.startswith("dataset=")]
    named = content.get("dataset") if isinstance(content, dict) else None
    return words[-1] if words else str(named)


def prepare(argv: Sequence[str]) -> None:
    """Run the converter that the config names."""
    match dataset_word(argv):
        case "adsworld":
            adsworld.run(load_config(adsworld.Config, argv))
        case "kuairand":
            kuairand.run(load_config(kuairand.Config, argv))
        case word:
            raise UserError(f"{argv[0]}: dataset must be adsworld or kuairand, got {word}")


def main(argv: Sequence[str]) -> int:
    """Return the exit status: 0, or 2 for a mistake of the user's."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    return run_alone(lambda: prepare(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
