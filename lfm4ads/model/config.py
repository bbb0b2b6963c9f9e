"""Shape of the foundation model, as a config."""

from dataclasses import dataclass, field
from typing import Literal

from lfm4ads.nn.fields import FieldConfig
from lfm4ads.nn.mix import MixConfig
from lfm4ads.nn.pairs import PairConfig
from lfm4ads.nn.tables import TableSet
from lfm4ads.nn.tower import TowerConfig

CONTEXT_SET = "context"


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """What stands on the last layer."""

    kind: Literal["linear", "sngp"] = "linear"
    """sngp: a random-feature Gaussian process with a variance, for exploration."""
    features: int = 1024
    """Random features of sngp."""
    decay: float = 1.0
    """Of sngp's precision: 1 counts a day's rows in a pass after it is trained, exactly; below 1
    it is a running one, observed at each training step."""
    spectral: float = 0.0
    """Largest singular value of the layers below the heads, so that near rows stay near; 0 leaves
    them free."""
    joint: bool = False
    """A second logit a task, which the loss rank=jrc needs."""

    def __post_init__(self) -> None:
        if self.kind != "sngp" and (self.features, self.decay) != (1024, 1.0):
            raise ValueError("heads.features and heads.decay are read by heads.kind=sngp alone")


@dataclass(frozen=True, kw_only=True)
class LfmConfig:
    """Shape of the foundation model."""

    without: tuple[str, ...] = ()
    """Features that no tower reads; similarities may."""
    context: Literal["logit", "user"] = "logit"
    """logit: context features only shift the logit, so that UR holds for any request; user: they
    enter the user tower, and UR is that of the user's last request."""
    sets: dict[str, TableSet] = field(default_factory=dict)
    """Complete table sets; empty: one, named main, with the schema's widths."""
    fields: FieldConfig = field(default_factory=FieldConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    tower: TowerConfig = field(default_factory=TowerConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    reads: dict[str, list[str]] = field(default_factory=dict)
    """Task -> table sets it reads; a task not named reads all."""
    trains: dict[str, list[str]] = field(default_factory=dict)
    """Task -> table sets its loss trains, among those it reads; the rest is behind a
    stop-gradient."""
    heads: HeadConfig = field(default_factory=HeadConfig)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if CONTEXT_SET in self.sets:
            raise ValueError(
                f"model.sets has a set {CONTEXT_SET}, the name of the context features' own set;"
                " give it another name"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {self.dropout}")
        if self.heads.kind == "sngp" and self.mix.merge.per_task:
            raise ValueError("heads.kind=sngp reads one vector a row; set merge.per_task=false")

    @property
    def table_sets(self) -> dict[str, TableSet]:
        """The sets by name."""
        return self.sets or {"main": TableSet()}

    @property
    def context_set(self) -> str:
        """The set of context features that shift the logit, which all tasks train.

        One of their own beside several others, or what a task may train would not hold for it.
        """
        return next(iter(self.table_sets)) if len(self.table_sets) == 1 else CONTEXT_SET
