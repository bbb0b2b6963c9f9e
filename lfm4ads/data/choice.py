"""What ``select`` chose, in ``features.yaml``: the one file that stages after it read of it."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

from lfm4ads.core.config import load_config
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import write_text


@dataclass(frozen=True, kw_only=True)
class ChosenBy:
    """The criterion of a choice and its value; ``size`` was asked for where it is that."""

    name: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Schema features or representations that are worth reading."""

    features: tuple[str, ...] | None = None
    """None: the choice was not among features, and all may be read."""
    representations: tuple[str, ...] | None = None
    """Named ``side.name``; None as above."""
    dims: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """Dims of a representation that are read, ascending; of one not named all are."""
    criterion: ChosenBy | None = None
    command: str = ""
    """What made the choice."""

    def __post_init__(self) -> None:
        if self.features is None and self.representations is None:
            raise ValueError("neither features nor representations are listed; one must be")
        astray = set(self.dims) - set(self.representations or ())
        if astray:
            raise ValueError(f"dims names {min(astray)}, which representations does not list")
        for name, dims in self.dims.items():
            if not dims or sorted(set(dims)) != dims or dims[0] < 0:
                raise ValueError(f"dims of {name} must ascend from 0 or more, got {dims}")

    def keep_features(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return those of the features that were chosen, in their order; there must be one."""
        if self.features is None:
            return tuple(names)
        kept = tuple(name for name in names if name in self.features)
        if not kept:
            raise UserError(
                f"select chose {', '.join(self.features)}, none of which is among the features"
                f" {', '.join(names)} of the model; select among these"
            )
        return kept

    def keep_representations(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return those of the representations that were chosen, in their order."""
        chosen = self.representations
        return tuple(name for name in names if chosen is None or name in chosen)


def load_choice(
    path: Path, *, features: Collection[str], representations: Collection[str] = ()
) -> Choice:
    """Read a ``features.yaml`` for a stage that has these features and representations.

    Raises:
        UserError: The file is none, or chooses nothing, or what the stage does not have.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; run select first, or leave select out")
    choice = load_config(Choice, [str(path)])
    if choice.features is None and not representations:
        raise UserError(
            f"{path} chooses among representations and this stage reads features alone;"
            " run select with choose=features"
        )
    _check(choice.features, features, kind="feature", path=path)
    if representations:
        _check(choice.representations, representations, kind="representation", path=path)
    return choice


def write_choice(path: Path, choice: Choice) -> None:
    """Write a ``features.yaml``; keys without a say are left null."""
    content = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(choice).items()
        if name != "dims" or value
    }
    write_text(path, yaml.safe_dump(content, sort_keys=False, default_flow_style=None))


def _check(chosen: Sequence[str] | None, known: Collection[str], *, kind: str, path: Path) -> None:
    for name in chosen or ():
        if name not in known:
            raise UserError(
                f"{path} chooses {kind} {name}, which is not there; there are"
                f" {', '.join(sorted(known))}: run select on the data that is read here"
            )
    if chosen is not None and not chosen:
        raise UserError(
            f"{path} chooses no {kind} at all; run select with size=1 or more, or leave it out"
        )
