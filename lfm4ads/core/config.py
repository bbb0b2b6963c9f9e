"""A stage's typed config from a YAML file and ``key=value`` words."""

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from lfm4ads.core.errors import UserError

T = TypeVar("T")


def load_config(schema: type[T], argv: Sequence[str]) -> T:
    """Build a frozen ``schema`` from ``[file.yaml, key=value, ...]``.

    Unknown keys, wrong types and broken invariants raise ``UserError`` naming the word or the file,
    and the key; defaults live in the dataclass alone.
    """
    if not argv:
        raise UserError("no config was given; the first argument is a YAML file from configs/")
    path, *words = argv
    if not Path(path).is_file():
        raise UserError(f"config {path} does not exist; see configs/ for what there is")
    try:
        layers = OmegaConf.merge(
            OmegaConf.structured(schema), _read(path), OmegaConf.from_dotlist(words)
        )
        return cast(T, OmegaConf.to_object(layers))
    except UserError:
        raise
    except yaml.YAMLError as error:
        culprit = _culprit(schema, words) or path
        raise UserError(f"{culprit} is not valid YAML: {_place(error)}") from error
    except OmegaConfBaseException as error:
        word = _culprit(schema, words)
        raise UserError(f"{word or path}: {_sentence(error, named=bool(word))}") from error
    except ValueError as error:
        raise UserError(f"{path}: {_one_line(error)}") from error


def parse_config(schema: type[T], text: str) -> T:
    """Build a frozen ``schema`` from the YAML that ``config_yaml`` wrote."""
    layers = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(text))
    return cast(T, OmegaConf.to_object(layers))


def config_yaml(config: object) -> str:
    """Return ``config`` as YAML that ``load_config`` reads back to an equal object."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _read(path: str) -> DictConfig:
    content: object = None
    try:
        content = OmegaConf.load(path)
    except OSError as error:
        if error.errno:  # without one it is what OmegaConf says of a file that holds one value
            raise
    if not isinstance(content, DictConfig):
        raise UserError(f"{path} must hold 'key: value' lines; see configs/ for examples")
    return content


def _culprit(schema: type, words: Sequence[str]) -> str:
    """Return the first word that the schema refuses by itself, or nothing."""
    for word in words:
        try:
            OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.from_dotlist([word]))
        except (yaml.YAMLError, OmegaConfBaseException):
            return word
    return ""


def _sentence(error: OmegaConfBaseException, *, named: bool) -> str:
    """Return what is wrong; the key is left out of a wrong value where the word names it."""
    key = error.full_key
    if isinstance(error, MissingMandatoryValue):
        return f"{key} is missing; add it or pass {key}=<value>"
    if isinstance(error, ConfigKeyError):
        near = re.search(r"Did you mean: '(\w+)'", str(error))
        return f"there is no key {key}; {f'did you mean {near[1]}?' if near else _known(error)}"
    # OmegaConf 2.4 leaves these unfilled for the entries of a list, and tells no key.
    reason = re.sub(r" (of type )?'\$VALUE(_TYPE)?'", "", str(error).partition("\n")[0])
    return (f"{key}: {reason}" if key and not named else reason).rstrip(".")


def _known(error: OmegaConfBaseException) -> str:
    kind = error.object_type
    names = [field.name for field in fields(kind)] if is_dataclass(kind) else []
    return f"the keys there are {', '.join(names)}" if names else "see the stage's Config"


def _place(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return _one_line(error)


def _one_line(words: object) -> str:
    return " ".join(str(words).split())
