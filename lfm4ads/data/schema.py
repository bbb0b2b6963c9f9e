"""What a dataset's columns are: ``schema.yaml`` as a typed, validated ``Schema``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lfm4ads.core.config import load_config
from lfm4ads.core.errors import UserError

FeatureKind = Literal["id", "ids", "sequence", "number", "vector"]
Side = Literal["user", "item", "context"]
IdsKind = Literal["hash", "managed", "rows"]
TaskKind = Literal["binary", "real", "time_to_event"]

KEY_COLUMNS = ("user", "item", "time", "domain", "scenario")


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """One embedding table; several features may share it."""

    rows: int
    """Ids are hashed into this many rows, or live in them for a time."""
    dim: int
    ids: IdsKind = "hash"
    """hash: an id's row is its hash, and shared with other ids. managed: ids get rows of their own
    and lose them to others, so that any number of ids may come over time (docs/scale.md). rows: ids
    are row numbers, as a vocabulary gave them; larger ones are refused."""

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"table rows must be at least 1, got {self.rows}")
        if self.dim < 4 or self.dim % 4:
            raise ValueError(f"table dim must be a multiple of 4 (an FBGEMM rule), got {self.dim}")


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One input column."""

    kind: FeatureKind
    side: Side
    column: str = ""
    """Parquet column; the feature's name when empty."""
    table: str = ""
    """Embedding table of an id, ids or sequence feature."""
    times: str = ""
    """A sequence's list column of event times in milliseconds, oldest first, one for every id."""
    max_length: int = 0
    """Keep the last so many ids of a list; 0 keeps all."""
    length: int = 0
    """Length of a vector feature."""
    log: bool = False
    """A number is read as sign(x) * log(1 + |x|) before it is standardised."""
    mean: float = 0.0
    std: float = 1.0
    """A number's moments after ``log``, fitted on the training days by the dataset's prepare."""
    nullable: bool = False
    """Null means an empty bag (ids) or NaN (number, vector); otherwise a null is an error."""

    def __post_init__(self) -> None:
        if self.is_sparse and not self.table:
            raise ValueError(f"a feature of kind {self.kind} needs a table")
        if self.kind == "vector" and self.length < 1:
            raise ValueError("a vector feature needs a positive length")
        if self.times and self.kind != "sequence":
            raise ValueError(f"only a sequence has times, not a feature of kind {self.kind}")
        if self.max_length < 0:
            raise ValueError(f"max_length must be at least 0, got {self.max_length}")
        if self.std <= 0:
            raise ValueError(f"std must be positive, got {self.std}")

    @property
    def is_sparse(self) -> bool:
        """Whether the feature is looked up in an embedding table."""
        return self.kind in ("id", "ids", "sequence")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One label; null in its column means the row has no such label."""

    label: str
    kind: TaskKind = "binary"
    duration: str = ""
    """Column of milliseconds from the row's time to the event, for time_to_event."""
    domains: tuple[str, ...] = ()
    """Domains that carry the label; empty means all."""
    scenarios: tuple[int, ...] = ()
    """Scenario ids that carry the label; empty means all."""

    def __post_init__(self) -> None:
        if (self.kind == "time_to_event") != bool(self.duration):
            raise ValueError("a time_to_event task, and only that, needs a duration column")


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Columns of one dataset; nothing else in the code knows a dataset's column names."""

    version: int
    name: str
    user: str
    item: str
    time: str
    domain: str
    scenario: str
    domains: tuple[str, ...]
    """Domain names; the domain column holds an index into them."""
    scenarios: tuple[str, ...]
    """Scenario names; the scenario column holds an index into them."""
    tables: dict[str, TableSpec]
    features: dict[str, Feature]
    tasks: dict[str, Task]
    row_id: str = ""
    """Optional int64 column that identifies a row; carried to prediction files."""

    def __post_init__(self) -> None:
        if self.version != 1:
            raise ValueError(
                f"schema version {self.version} is not supported, this program reads 1"
            )
        for name, feature in self.features.items():
            if feature.table and feature.table not in self.tables:
                raise ValueError(
                    f"feature {name} names table {feature.table}, which tables does not list"
                )
        for name, task in self.tasks.items():
            self._check_task(name, task)
        outcomes = {
            column
            for task in self.tasks.values()
            for column in (task.label, task.duration)
            if column
        }
        for name, feature in self.features.items():
            for column in (self.column(name), feature.times):
                if column in outcomes:
                    raise ValueError(f"feature {name} reads outcome column {column}: a leak")

    def _check_task(self, name: str, task: Task) -> None:
        unknown = set(task.domains) - set(self.domains)
        if unknown:
            raise ValueError(f"task {name} names unknown domains {sorted(unknown)}")
        if any(not 0 <= scenario < len(self.scenarios) for scenario in task.scenarios):
            raise ValueError(f"task {name} names a scenario outside 0..{len(self.scenarios) - 1}")

    def column(self, feature: str) -> str:
        """Return the Parquet column of a feature."""
        return self.features[feature].column or feature

    def select(
        self,
        *,
        side: Side | None = None,
        sparse: bool | None = None,
        kind: FeatureKind | None = None,
    ) -> list[str]:
        """Return the names of features that match, in schema order."""
        return [
            name
            for name, feature in self.features.items()
            if (side is None or feature.side == side)
            and (sparse is None or feature.is_sparse == sparse)
            and (kind is None or feature.kind == kind)
        ]

    @property
    def binary_tasks(self) -> list[str]:
        """Tasks trained with a binary label; time_to_event counts as 'did it happen'."""
        return [name for name, task in self.tasks.items() if task.kind != "real"]


def load_schema(dataset: Path) -> Schema:
    """Read ``dataset/schema.yaml``."""
    path = dataset / "schema.yaml"
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; run 'make prepare' or point data at a prepared dataset"
        )
    return load_config(Schema, [str(path)])
