"""How upstream knowledge enters a downstream model, as a config (arXiv 2508.14948)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

from lfm4ads.core.errors import UserError
from lfm4ads.data.choice import Choice

UR, IR = "user.ur", "item.ir"
NOTHING, EVERYTHING = "nothing", "everything"


@dataclass(frozen=True, kw_only=True)
class ArmConfig:
    """One way to use an upstream; nothing set: the downstream model alone.

    The first four name representations by patterns such as user.ur, user.cr_* or *; several ways
    can be combined. ``copy`` is another network and stands alone.
    """

    concat: tuple[str, ...] = ()
    """Feature level: a linear map of them beside the embeddings. With UR alone it is the baseline
    SUM (arXiv 2311.09544)."""
    gate: tuple[str, ...] = ()
    """Feature level: embeddings times sigmoid(W r + b), as the public code."""
    adapter: tuple[str, ...] = ()
    """Feature level: a non-linear adapter that is the identity at start."""
    tokens: tuple[str, ...] = ()
    """Feature level: one token a representation, absent ones masked, few of them beside the
    embeddings."""
    module: Literal["", "logit", "hidden", "both"] = ""
    """Module level: a block like the upstream's mix tower, started from its weights, runs on stored
    UR and IR; its logit is added, its last hidden layer joins the last hidden layer, or both."""
    copy: str = ""
    """Module level: the upstream's whole network as the downstream model, its layers copied from
    the input up to the named one: nothing, towers, a layer of the mix tower, or everything."""
    dims: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """Dims that are read of a representation at feature level; of one not named all are."""

    def __post_init__(self) -> None:
        if self.copy and self.reads:
            raise ValueError("an arm with copy is a network of its own; leave out what else enters")

    @property
    def patterns(self) -> dict[str, tuple[str, ...]]:
        """What enters at feature level, by way."""
        return {
            "concat": self.concat,
            "gate": self.gate,
            "adapter": self.adapter,
            "tokens": self.tokens,
        }

    @property
    def reads(self) -> tuple[str, ...]:
        """Every representation that is read, once, in order; patterns before ``named``."""
        parts = [*self.patterns.values(), (UR, IR) if self.module else ()]
        return tuple(dict.fromkeys(name for part in parts for name in part))

    def named(self, names: tuple[str, ...]) -> "ArmConfig":
        """Return the arm with its patterns replaced by those of ``names`` that they match.

        Raises:
            UserError: A pattern matches nothing.
        """
        found = {way: match_names(some, names) for way, some in self.patterns.items()}
        return replace(self, **found)

    def keeping(self, choice: Choice) -> "ArmConfig":
        """Return the arm, which has no patterns, reading at feature level what was chosen.

        A module runs the upstream's own layers, which need UR and IR whole: it keeps them.
        """
        kept = {way: choice.keep_representations(some) for way, some in self.patterns.items()}
        reads = {name for some in kept.values() for name in some}
        dims = {name: some for name, some in choice.dims.items() if name in reads}
        return replace(self, **kept, dims=dims or self.dims)


def choose_arms(arms: Mapping[str, ArmConfig], choice: Choice) -> dict[str, ArmConfig]:
    """Return arms that read of their representations those that were chosen.

    Raises:
        UserError: Nothing is left of what makes an arm another than vanilla.
    """
    chosen = {name: arm.keeping(choice) for name, arm in arms.items()}
    for name, arm in arms.items():
        if arm.reads and not chosen[name].reads:
            raise UserError(
                f"arm {name} reads {', '.join(arm.reads)}, of which nothing was chosen; name the"
                " other arms in only, or select more"
            )
    return chosen


def match_names(patterns: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names that any pattern matches, in their order."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(
                f"no representation is called {pattern}; there are {', '.join(names)}",
                everywhere=True,
            )
    return tuple(name for name in names if any(fnmatchcase(name, one) for one in patterns))


DEFAULT_ARMS = {
    "vanilla": ArmConfig(),
    "sum": ArmConfig(concat=(UR,)),
    "adapter": ArmConfig(adapter=("*",)),
    "module": ArmConfig(module="logit"),
}
