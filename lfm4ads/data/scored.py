"""What the arms said about the same rows, and the simulator's truth, aligned on ``row_id``.

Dimension key: N rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lfm4ads.core.errors import UserError
from lfm4ads.data.runs import Run

Array = npt.NDArray[Any]
Split = Literal["valid", "test"]
NO_LABEL = -1


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Rows of one split that every arm scored, sorted by ``row_id``."""

    split: Split
    row_id_N: Array
    user_N: Array
    scenario_N: Array
    label_N: dict[str, Array]
    """int8 by task; -1 where the row has no such label."""
    logit_N: dict[tuple[str, int], dict[str, Array]]
    """float32 by (arm, seed), then by task."""

    @property
    def tasks(self) -> list[str]:
        """Tasks in the order of the prediction files' columns."""
        return list(self.label_N)

    def cells(self, task: str) -> dict[str, Array]:
        """Return the places of a task's labelled rows by scenario id, ``all`` first."""
        labelled = np.flatnonzero(self.label_N[task] != NO_LABEL)
        scenario = self.scenario_N[labelled]
        return {"all": labelled} | {
            str(one): labelled[scenario == one] for one in np.unique(scenario)
        }

    def seeds(self, arm: str) -> list[int]:
        """Return the seeds of an arm in the order they were loaded."""
        return [seed for name, seed in self.logit_N if name == arm]


def load_rows(runs: Sequence[Run], *, split: Split) -> Scored:
    """Read one split of every run; all must hold the same rows with the same labels."""
    first = runs[0]
    rows = _one_run(_load_table(first, split=split), run=first, split=split)
    for run in runs[1:]:
        other = _one_run(_load_table(run, split=split), run=run, split=split)
        _check_same(rows, other, first=first, run=run)
        rows.logit_N[run.arm, run.seed] = other.logit_N[run.arm, run.seed]
    return rows


def _load_table(run: Run, *, split: Split) -> pa.Table:
    """Return the rows of a run, those of its scenarios one after the other."""
    tables: list[pa.Table] = []
    for part in run.parts:
        folder = part.folder / "predictions" / f"split={split}"
        files = sorted(folder.glob("part-*.parquet"))
        if not files:
            raise UserError(f"{folder} holds no part-*.parquet; rerun transfer for {part.name}")
        tables += [_read(path, name=part.name) for path in files]
    try:
        return pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise UserError(
            f"the {split} predictions of {run.name} differ in their columns ({_line(error)}); "
            f"rerun {run.name}"
        ) from error


def _read(path: Path, *, name: str) -> pa.Table:
    try:
        return pq.ParquetFile(path).read()
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path} is not a readable Parquet file ({_line(error)}); rerun {name}"
        ) from error


def _one_run(table: pa.Table, *, run: Run, split: Split) -> Scored:
    where = f"predictions of {run.name} ({split})"
    tasks = [
        name.removeprefix("logit_") for name in table.column_names if name.startswith("logit_")
    ]
    if not tasks:
        raise UserError(f"{where} have no logit_<task> column; rerun transfer")
    for name in ("row_id", "user", "scenario", *(f"label_{task}" for task in tasks)):
        if name not in table.column_names:
            raise UserError(f"{where} have no column {name}; rerun transfer")
    table = table.sort_by("row_id")
    row_id_N = table["row_id"].to_numpy()
    twice = np.flatnonzero(row_id_N[1:] == row_id_N[:-1])
    if twice.size:
        raise UserError(f"{where} hold row_id {row_id_N[twice[0]]} twice; rerun transfer")
    logit_N = {task: table[f"logit_{task}"].to_numpy() for task in tasks}
    for task, values_N in logit_N.items():
        bad = np.flatnonzero(~np.isfinite(values_N))
        if bad.size:
            raise UserError(
                f"{where} have logit_{task} {values_N[bad[0]]} at row_id {row_id_N[bad[0]]}; "
                "rerun transfer"
            )
    return Scored(
        split=split,
        row_id_N=row_id_N,
        user_N=table["user"].to_numpy(),
        scenario_N=table["scenario"].to_numpy(),
        label_N={task: pc.fill_null(table[f"label_{task}"], NO_LABEL).to_numpy() for task in tasks},
        logit_N={(run.arm, run.seed): logit_N},
    )


def _check_same(rows: Scored, other: Scored, *, first: Run, run: Run) -> None:
    if not np.array_equal(rows.row_id_N, other.row_id_N):
        common = len(np.intersect1d(rows.row_id_N, other.row_id_N))
        raise UserError(
            f"{run.name} scored other {rows.split} rows than {first.name} "
            f"({len(other.row_id_N)} and {len(rows.row_id_N)}, {common} in common, "
            f"{_where_they_differ(rows, other)}); "
            "train both on one dataset with the same days and scenarios"
        )
    if set(rows.tasks) != set(other.tasks):
        raise UserError(
            f"{run.name} scored tasks {sorted(other.tasks)} but {first.name} {sorted(rows.tasks)}; "
            "train all arms on the same tasks"
        )
    for task in rows.tasks:
        if not np.array_equal(rows.label_N[task], other.label_N[task]):
            raise UserError(
                f"{run.name} and {first.name} have different label_{task} "
                f"for the same {rows.split} rows; prepare the dataset once and rerun both"
            )


def _where_they_differ(rows: Scored, other: Scored) -> str:
    """Return the scenarios of the rows that only one of the two has."""
    alone = np.concatenate(
        [
            one.scenario_N[~np.isin(one.row_id_N, two.row_id_N)]
            for one, two in ((rows, other), (other, rows))
        ]
    )
    return f"the others in scenarios {', '.join(map(str, np.unique(alone)))}"


def oracle_logits(folder: Path, *, rows: Scored) -> dict[str, Array]:
    """Return the true log odds (N,) of ``rows`` by task, for the tasks the simulator knows.

    Only rows that carry a label need a truth; elsewhere the value is 0 and is never read.
    """
    files = sorted(folder.glob("day=*/part-*.parquet"))
    if not files:
        raise UserError(
            f"oracle folder {folder} holds no day=*/part-*.parquet; "
            "pass <dataset>/oracle or leave oracle out"
        )
    source = ds.dataset([str(path) for path in files], format="parquet")
    tasks = [task for task in rows.tasks if f"probability_{task}" in source.schema.names]
    if not tasks or "row_id" not in source.schema.names:
        raise UserError(
            f"oracle folder {folder} has no row_id or no probability_<task> for {rows.tasks}; "
            "prepare the dataset again"
        )
    columns = ["row_id", *(f"probability_{task}" for task in tasks)]
    truth = source.to_table(columns=columns).sort_by("row_id")
    truth_id_M = truth["row_id"].to_numpy()
    place_N = np.minimum(np.searchsorted(truth_id_M, rows.row_id_N), max(len(truth_id_M) - 1, 0))
    found_N = (
        truth_id_M[place_N] == rows.row_id_N
        if len(truth_id_M)
        else np.zeros(len(rows.row_id_N), dtype=bool)
    )
    logits = {}
    for task in tasks:
        chance_N = np.full(len(rows.row_id_N), 0.5)
        chance_N[found_N] = truth[f"probability_{task}"].to_numpy()[place_N[found_N]]
        lost = np.flatnonzero(
            (rows.label_N[task] != NO_LABEL) & ~(found_N & (chance_N >= 0) & (chance_N <= 1))
        )
        if lost.size:
            raise UserError(
                f"oracle folder {folder} has no probability_{task} "
                f"for {lost.size} {rows.split} rows (first row_id {rows.row_id_N[lost[0]]}); "
                "pass the oracle of the dataset the runs used"
            )
        chance_N = np.clip(np.nan_to_num(chance_N, nan=0.5), 1e-7, 1 - 1e-7)
        logits[task] = np.log(chance_N / (1 - chance_N)).astype(np.float32)
    return logits


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
