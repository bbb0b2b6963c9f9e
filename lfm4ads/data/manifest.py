"""What a snapshot of representations is: its header, its files, and where they lie.

``<reps>/upstream=<version>/as_of=<YYYYMMDD>/{user,item}/part-<owner>.parquet`` and
``manifest.json`` beside the sides, written last: its presence marks a complete snapshot.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json, write_json
from lfm4ads.data.decay import Read

RepSide = Literal["user", "item"]
Clock = Literal["time", "events"]

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
KEY_COLUMNS = ("key", "events", "last_time")


@dataclass(frozen=True, kw_only=True)
class RepSpec:
    """One representation of one side."""

    name: str
    side: RepSide
    kind: Literal["latest", "decayed"]
    """The newest vector of a key (UR, IR), or a decayed sum over its events (CR)."""
    dim: int
    read: Read
    """How a stored vector becomes what a model sees; ``sum`` leaves it as it is."""
    clock: Clock = "time"
    """What a decayed sum decays by: milliseconds, or events of the key in this slot."""
    half_life: float | None = None
    """Of a decayed sum, in milliseconds or events; None means it never decays."""
    layer: str = ""
    """Upstream layer the vectors come from."""
    domain: str = ""
    """Domain whose events enter; empty means all."""
    scenario: str = ""
    """Scenario whose events enter; empty means all."""
    event: str = ""
    """Task whose positives alone enter; empty means every exposure."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"representation name {self.name!r} must be of a-z, 0-9 and _")
        if self.dim < 1:
            raise ValueError(f"representation {self.name} needs a positive dim, got {self.dim}")
        if self.half_life is not None and not (self.kind == "decayed" and self.half_life > 0):
            raise ValueError(f"representation {self.name} cannot have half_life {self.half_life}")
        if self.clock not in ("time", "events"):
            raise ValueError(f"representation {self.name} has no clock {self.clock}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The Parquet columns that hold it: the vectors first, then what they need to merge."""
        suffixes = ("time", "tie") if self.kind == "latest" else ("weight", "time", "events")
        return (self.name, *(f"{self.name}_{suffix}" for suffix in suffixes))


@dataclass(frozen=True, kw_only=True)
class Carried:
    """Where states of another upstream came from, and how well its vectors could be mapped."""

    upstream: str
    as_of: int
    days: tuple[int, ...]
    """Days on whose rows both upstreams were compared."""
    rows: int
    r2: dict[str, float]
    """Explained share of variance by representation, as ``side.name``."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a snapshot says of itself before any file is written."""

    upstream: str
    """Version of the upstream model; vectors of two versions never mix."""
    as_of: int
    """YYYYMMDD of the last day whose events are in it."""
    checkpoint_day: int
    """YYYYMMDD of the checkpoint that computed the vectors of the last day."""
    trained_through: int
    """YYYYMMDD of the last day that checkpoint was trained on."""
    representations: tuple[RepSpec, ...]
    first_day: int = 0
    """YYYYMMDD of the first day whose events are in it; 0 where nobody said."""
    window_days: int = 0
    """Days its first snapshot was built from; 0: all that there were."""
    carried: Carried | None = None
    """The old upstream's states it began with."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.upstream):
            raise ValueError(
                f"upstream version {self.upstream!r} must be of letters, digits, '.', '_' and '-'"
            )
        for day in (self.as_of, self.checkpoint_day, self.trained_through):
            datetime.strptime(str(day), "%Y%m%d")
        if self.trained_through > self.as_of:
            raise ValueError(
                f"a snapshot as of {self.as_of} cannot come from a checkpoint trained through "
                f"{self.trained_through}: a leak"
            )
        for side in self.sides:
            columns = [
                *KEY_COLUMNS,
                *(column for spec in self.specs(side) for column in spec.columns),
            ]
            double = {column for column in columns if columns.count(column) > 1}
            if double:
                raise ValueError(
                    f"{side} representations share columns {sorted(double)}; rename one"
                )

    @property
    def sides(self) -> tuple[RepSide, ...]:
        """Sides that have representations, and so files."""
        return tuple(sorted({spec.side for spec in self.representations}))

    def specs(self, side: RepSide) -> tuple[RepSpec, ...]:
        """Return the representations of a side in manifest order."""
        return tuple(spec for spec in self.representations if spec.side == side)


@dataclass(frozen=True, kw_only=True)
class PartFile:
    """One written file: the keys of one side that one rank owns."""

    side: RepSide
    owner: int
    rows: int
    num_bytes: int
    sha256: str
    sums: dict[str, list[list[float]]] = field(default_factory=dict)
    """Counts, sums and sums of squares of each representation's dimensions, for its moments."""

    @property
    def path(self) -> str:
        """Path inside the snapshot's folder."""
        return f"{self.side}/part-{self.owner:05d}.parquet"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A header and the files that fulfil it."""

    header: Header
    world: int
    """Number of owners, hence of parts per side."""
    files: tuple[PartFile, ...]

    def __post_init__(self) -> None:
        expected = [(side, owner) for side in self.header.sides for owner in range(self.world)]
        if sorted((file.side, file.owner) for file in self.files) != expected:
            raise ValueError(
                f"files do not cover the sides {self.header.sides} of {self.world} owners"
            )

    def rows(self, side: RepSide) -> int:
        """Return how many keys a side has."""
        return sum(file.rows for file in self.files if file.side == side)


def snapshot_folder(root: Path, *, version: str, as_of: int) -> Path:
    """Return where a finished snapshot lies."""
    return root / f"upstream={version}" / f"as_of={as_of}"


def building_folder(root: Path, *, version: str, as_of: int) -> Path:
    """Return where a snapshot is built before it is renamed into place."""
    return root / f"upstream={version}" / f".as_of={as_of}.building"


def available_versions(root: Path) -> list[str]:
    """Return the upstream versions that have a folder under ``root``, sorted."""
    return sorted(path.name.removeprefix("upstream=") for path in root.glob("upstream=*"))


def available_days(root: Path, version: str) -> list[int]:
    """Return the days, ascending, that have a finished snapshot of ``version``."""
    folders = (root / f"upstream={version}").glob(f"as_of=*/{MANIFEST}")
    names = (path.parent.name.removeprefix("as_of=") for path in folders)
    return sorted(int(name) for name in names if name.isdigit())


def save_manifest(path: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` atomically."""
    header = manifest.header
    write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "upstream": header.upstream,
            "as_of": header.as_of,
            "checkpoint_day": header.checkpoint_day,
            "trained_through": header.trained_through,
            "first_day": header.first_day,
            "window_days": header.window_days,
            "carried": asdict(header.carried) if header.carried else None,
            "world": manifest.world,
            "rows": {side: manifest.rows(side) for side in header.sides},
            "representations": [asdict(spec) for spec in header.representations],
            "files": [asdict(file) | {"path": file.path} for file in manifest.files],
        },
    )


def load_manifest(path: Path) -> Manifest:
    """Read ``manifest.json``, or say in one sentence what is wrong with it."""
    raw = read_json(path)
    written = raw.get("schema_version") if isinstance(raw, dict) else None
    if written != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema_version {written}, this program reads {SCHEMA_VERSION}; rerun dump"
        )
    try:
        return Manifest(
            header=Header(
                upstream=raw["upstream"],
                as_of=raw["as_of"],
                checkpoint_day=raw["checkpoint_day"],
                trained_through=raw["trained_through"],
                representations=tuple(RepSpec(**spec) for spec in raw["representations"]),
                first_day=raw["first_day"],
                window_days=raw["window_days"],
                carried=_carried(raw["carried"]),
            ),
            world=raw["world"],
            files=tuple(part_files(raw["files"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is not a manifest of this program ({error}); rerun dump"
        ) from error


def _carried(entry: dict[str, Any] | None) -> Carried | None:
    return None if entry is None else replace(Carried(**entry), days=tuple(entry["days"]))


def part_files(entries: Iterable[dict[str, Any]]) -> list[PartFile]:
    """Return the files that JSON entries describe; their ``path`` is derived, not believed."""
    return [
        PartFile(**{key: value for key, value in entry.items() if key != "path"})
        for entry in entries
    ]
