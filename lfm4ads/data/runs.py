"""Finding finished runs of ``transfer`` and ``retrieve``, refusing sets that cannot be compared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json

ORACLE = "oracle"
"""Arm of the simulator's truth; it has no seed and is kept under seed 0."""
_NEEDED = ("arm", "seed", "dataset", "upstream")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One run folder."""

    folder: Path
    report: dict[str, Any]
    """The run's own ``report.json``."""
    scenarios: tuple[str, ...]
    """Names of the scenarios it was trained and tested on; empty: all of its domain."""

    @property
    def place(self) -> str:
        """Arm and seed, as the folder of a run ends."""
        return f"{self.report['arm']}/seed-{self.report['seed']}"

    @property
    def name(self) -> str:
        """How messages and tables call this folder."""
        return " ".join((self.place, *self.scenarios))


@dataclass(frozen=True, kw_only=True)
class Run:
    """One arm trained with one seed, in one folder or in one for each of some scenarios."""

    arm: str
    seed: int
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """How messages and tables call this run."""
        return f"{self.arm}/seed-{self.seed}"


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Return the runs in every ``<folder>/<arm>/seed-<n>`` by arm and seed.

    Folders of one arm and seed that were told different scenarios are one run. An unfinished folder
    is an error, and so is a scenario twice.
    """
    if not folders:
        raise UserError("no runs were given; pass runs=[<output of transfer>, ...]")
    found: dict[tuple[str, int], list[Part]] = {}
    for part in (part for folder in folders for part in _parts_under(folder)):
        others = found.setdefault((str(part.report["arm"]), int(part.report["seed"])), [])
        for other in others:
            _check_apart(part, other)
        others.append(part)
    return [
        Run(arm=arm, seed=seed, parts=tuple(sorted(parts, key=lambda part: part.scenarios)))
        for (arm, seed), parts in sorted(found.items())
    ]


def _check_apart(part: Part, other: Part) -> None:
    common = set(part.scenarios) & set(other.scenarios)
    if common or not (part.scenarios and other.scenarios):
        where = f" of scenario {min(common)}" if common else ""
        raise UserError(
            f"{part.folder} and {other.folder} both hold {part.place}{where}; "
            "list only one of them in runs"
        )


def _parts_under(folder: Path) -> list[Part]:
    if not folder.is_dir():
        raise UserError(
            f"run folder {folder} does not exist; run 'make transfer' first or correct runs"
        )
    seeds = sorted(path for path in folder.glob("*/seed-*") if path.is_dir())
    if not seeds:
        raise UserError(
            f"{folder} holds no <arm>/seed-<n> folder; pass the output folder of transfer in runs"
        )
    return [_load_part(path) for path in seeds]


def _load_part(folder: Path) -> Part:
    path = folder / "report.json"
    if not path.is_file():
        raise UserError(
            f"{path} does not exist, so that run is unfinished; finish it or move it away"
        )
    report = read_json(path)
    version = report.get("schema_version") if isinstance(report, dict) else None
    if version != 1:
        raise UserError(
            f"{path} has schema_version {version}, this program reads 1; rerun transfer"
        )
    for key in _NEEDED:
        if key not in report:
            raise UserError(f"{path} has no field {key}; rerun transfer")
    if report["arm"] == ORACLE:
        raise UserError(f"{path} calls its arm {ORACLE}, a name kept for the truth; rename the arm")
    return Part(folder=folder, report=report, scenarios=tuple(report.get("scenarios", ())))


def check_comparable(runs: Sequence[Run], *, baseline: str) -> None:
    """Refuse runs of different datasets or upstreams, and seeds without a baseline.

    A run without an upstream (null), as an arm that uses no representation may be, goes with any.
    """
    arms = sorted({run.arm for run in runs})
    if baseline not in arms:
        raise UserError(
            f"baseline arm {baseline} is not among the runs ({', '.join(arms)}); "
            "set baseline to one of them"
        )
    _check_equal(list(all_parts(runs)), field="dataset")
    with_upstream = [part for part in all_parts(runs) if part.report["upstream"] is not None]
    _check_equal(with_upstream, field="upstream")
    seeds = {run.seed for run in runs if run.arm == baseline}
    for run in runs:
        if run.seed not in seeds:
            raise UserError(
                f"{run.name} has no {baseline}/seed-{run.seed} to be paired with; "
                f"train {baseline} with seed {run.seed} or remove that run"
            )


def all_parts(runs: Sequence[Run]) -> Iterator[Part]:
    """Yield the folders of all runs."""
    for run in runs:
        yield from run.parts


def _check_equal(parts: Sequence[Part], *, field: str) -> None:
    for part in parts[1:]:
        if part.report[field] != parts[0].report[field]:
            raise UserError(
                f"{part.folder} has {field} {part.report[field]} "
                f"but {parts[0].folder} has {parts[0].report[field]}; "
                "report runs of one dataset and one upstream at a time"
            )
