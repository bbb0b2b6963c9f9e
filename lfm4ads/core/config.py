"""A stage's typed config from a YAML file and ``key=value`` words."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lfm4ads.core.errors import UserError

T = TypeVar("T")


def load_config(schema: type[T], argv: Sequence[str]) -> T:
    """Build a frozen ``schema`` from ``[file.yaml, key=value, ...]``.

    Unknown keys, wrong types and broken invariants raise ``UserError`` naming the key; defaults
    live in the dataclass alone.
    """
    if not argv:
        raise UserError("no config was given; the first argument is a YAML file from configs/")
    path, *overrides = argv
    if not Path(path).is_file():
        raise UserError(f"config {path} does not exist; see configs/ for what there is")
    try:
        layers = OmegaConf.merge(
            OmegaConf.structured(schema),
            OmegaConf.load(path),
            OmegaConf.from_dotlist(list(overrides)),
        )
        return cast(T, OmegaConf.to_object(layers))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error


def parse_config(schema: type[T], text: str) -> T:
    """Build a frozen ``schema`` from the YAML that ``config_yaml`` wrote."""
    layers = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(text))
    return cast(T, OmegaConf.to_object(layers))


def config_yaml(config: object) -> str:
    """Return ``config`` as YAML that ``load_config`` reads back to an equal object."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))
