"""Finding the finished runs of ``transfer`` and refusing sets that cannot be compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json

ORACLE = "oracle"
"""Arm of the simulator's truth; it has no seed and is kept under seed 0."""
_NEEDED = ("arm", "seed", "dataset", "upstream")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One arm trained with one seed."""

    arm: str
    seed: int
    folder: Path
    report: dict[str, Any]
    """The run's own ``report.json``."""

    @property
    def name(self) -> str:
        """How messages and tables call this run."""
        return f"{self.arm}/seed-{self.seed}"


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Return every ``<folder>/<arm>/seed-<n>`` by arm and seed; an unfinished one is an error."""
    if not folders:
        raise UserError("no runs were given; pass runs=[<output of transfer>, ...]")
    runs = [run for folder in folders for run in _runs_under(folder)]
    seen: dict[str, Run] = {}
    for run in runs:
        if run.name in seen:
            raise UserError(
                f"{run.folder} and {seen[run.name].folder} both hold {run.name}; "
                "list only one of them in runs"
            )
        seen[run.name] = run
    return sorted(runs, key=lambda run: (run.arm, run.seed))


def _runs_under(folder: Path) -> list[Run]:
    if not folder.is_dir():
        raise UserError(
            f"run folder {folder} does not exist; run 'make transfer' first or correct runs"
        )
    seeds = sorted(path for path in folder.glob("*/seed-*") if path.is_dir())
    if not seeds:
        raise UserError(
            f"{folder} holds no <arm>/seed-<n> folder; pass the output folder of transfer in runs"
        )
    return [_load_run(path) for path in seeds]


def _load_run(folder: Path) -> Run:
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
    return Run(arm=str(report["arm"]), seed=int(report["seed"]), folder=folder, report=report)


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
    _check_equal(runs, field="dataset")
    _check_equal([run for run in runs if run.report["upstream"] is not None], field="upstream")
    seeds = {run.seed for run in runs if run.arm == baseline}
    for run in runs:
        if run.seed not in seeds:
            raise UserError(
                f"{run.name} has no {baseline}/seed-{run.seed} to be paired with; "
                f"train {baseline} with seed {run.seed} or remove that run"
            )


def _check_equal(runs: Sequence[Run], *, field: str) -> None:
    for run in runs[1:]:
        if run.report[field] != runs[0].report[field]:
            raise UserError(
                f"{run.folder} has {field} {run.report[field]} "
                f"but {runs[0].folder} has {runs[0].report[field]}; "
                "report runs of one dataset and one upstream at a time"
            )
