"""Shape of the foundation model, as a config."""

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal

from lfm4ads.nn.branch import MixConfig
from lfm4ads.nn.fields import FieldConfig
from lfm4ads.nn.interactions.config import InteractionConfig
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
    given: dict[str, str] = field(default_factory=dict)
    """Task -> task without which it cannot happen: its probability is that of its own logit times
    the other's (ESMM)."""

    def __post_init__(self) -> None:
        if self.kind != "sngp" and (self.features, self.decay) != (1024, 1.0):
            raise ValueError("heads.features and heads.decay are read by heads.kind=sngp alone")
        if self.given and (self.joint or self.kind == "sngp"):
            raise ValueError(
                "heads.given multiplies probabilities, which heads.joint and heads.kind=sngp have"
                " other logits for; choose one"
            )


MultitaskKind = Literal[
    "none", "single", "shared_bottom", "omoe", "mmoe", "ple", "esmm", "aitm", "me_mmoe", "me_ple",
    "ame", "stem", "stem_al",
]  # fmt: skip


_READ_BY: dict[str, tuple[MultitaskKind, ...]] = {
    "stop_gradient": ("stem", "stem_al"),
    "order": ("esmm", "aitm"),
    "main": ("stem_al",),
    "dims": ("ame",),
}


def _default(one: Field[Any]) -> object:
    return one.default if one.default_factory is MISSING else one.default_factory()


@dataclass(frozen=True, kw_only=True)
class MultitaskConfig:
    """A multi-task network by name; it writes table sets, experts, merge, reads and trains.

    ``docs/multitask.md`` says what each kind is; K1 specific experts a task, K2 shared ones.
    """

    kind: MultitaskKind = "none"
    dim: int = 0
    """Width of every table in each set; 0: the schema's."""
    task_experts: int = 1
    """K1, of ple, me_ple, stem; of stem_al those of the auxiliary tasks."""
    shared_experts: int = 2
    """K2, of ple, me_ple, stem; all experts of omoe, mmoe, me_mmoe; of stem_al the main tasks'."""
    layers: int = 1
    interaction: InteractionConfig = field(default_factory=lambda: InteractionConfig(kind="flat"))
    hidden: tuple[int, ...] = (128,)
    """MLP of an expert."""
    gate_hidden: tuple[int, ...] = (64,)
    """Of kinds that have gates, as gate_input."""
    gate_input: Literal["trained", "own", "sum"] = "sum"
    """sum: task and shared inputs added, as in STEM's code; own: the task's alone, as in its
    figure; trained: side by side."""
    stop_gradient: bool = True
    """Of stem and stem_al; false is their ablation."""
    order: tuple[str, ...] = ()
    """Tasks of esmm (each after the one before it) and aitm; empty: the schema's order."""
    main: tuple[str, ...] = ()
    """Main tasks of stem_al."""
    dims: tuple[int, ...] = (8, 16, 32)
    """Widths of the sets of ame, an expert each."""

    def __post_init__(self) -> None:
        if min(self.task_experts, self.shared_experts, self.layers) < 1:
            raise ValueError(
                "model.multitask.task_experts, shared_experts and layers must be at least 1"
            )
        if self.layers > 1 and self.kind in ("shared_bottom", "stem_al"):
            raise ValueError(f"model.multitask.kind={self.kind} has one layer of experts")
        changed = [one.name for one in fields(self) if getattr(self, one.name) != _default(one)]
        if self.kind == "none" and changed:
            raise ValueError(f"model.multitask.{changed[0]} is set and kind is not; name a kind")
        for name, kinds in _READ_BY.items():
            if name in changed and self.kind not in kinds:
                raise ValueError(
                    f"model.multitask.{name} is read by {' and '.join(kinds)} alone, kind is"
                    f" {self.kind}"
                )


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
    multitask: MultitaskConfig = field(default_factory=MultitaskConfig)
    """Instead of sets, experts, merge, reads and trains: a network by name."""
    reads: dict[str, list[str]] = field(default_factory=dict)
    """Task -> table sets or experts it reads; a task not named reads all."""
    trains: dict[str, list[str]] = field(default_factory=dict)
    """Task -> table sets or experts its loss trains, among those it reads; the rest is behind a
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
