"""Scores that runs of pretrain left of the same days, one run in memory at a time.

Dimension key: N rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lfm4ads.core.errors import UserError

Array = npt.NDArray[Any]
RunKey = tuple[str, int]
"""Variant and seed."""
NO_LABEL = -1


@dataclass(frozen=True, kw_only=True)
class DayScores:
    """Rows of some days and what one run says of them, sorted by ``row_id``."""

    row_id_N: Array
    user_N: Array
    label_N: dict[str, Array]
    """int8 by task; -1 where the row has no such label."""
    logit_N: dict[str, Array]
    """float32 by task."""


def scored_days(run: Path) -> list[int]:
    """Return the days that a run of pretrain scored, in order."""
    days = sorted(
        int(folder.name.removeprefix("day="))
        for folder in run.glob("scores/day=*")
        if any(folder.glob("part-*.parquet"))
    )
    if not days:
        raise UserError(
            f"{run} has no scores/day=*/part-*.parquet; rerun pretrain with write_scores=true and"
            " days after days.base_last (days.frozen=true for a model that is only scored there)"
        )
    return days


def find_scored_runs(
    folder: Path, *, needed: Sequence[str], variants: Sequence[str] = ()
) -> dict[RunKey, Path]:
    """Return the finished runs in ``<folder>/<variant>/seed-<n>``, in a fixed order.

    Args:
        folder: What an experiment of pretrain wrote.
        needed: Variants without which there is nothing to compare; they come first.
        variants: The others; empty: all that are there.
    """
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.glob("*/seed-*/report.json")):
        run, name = path.parent, path.parent.parent.name
        if not variants or name in (*variants, *needed):
            found.setdefault(name, {})[int(run.name.removeprefix("seed-"))] = run
    wanted = list(dict.fromkeys((*needed, *(variants or found))))
    for name in wanted:
        if name not in found:
            raise UserError(
                f"{folder} has no finished run of {name}, only of {', '.join(found) or 'nothing'};"
                " run it, or mend baseline, baselines and variants"
            )
        if found[name].keys() != found[wanted[0]].keys():
            raise UserError(
                f"{name} has seeds {sorted(found[name])} and {wanted[0]} has"
                f" {sorted(found[wanted[0]])}; run both with the same seeds"
            )
    return {(name, seed): found[name][seed] for name in wanted for seed in sorted(found[name])}


def common_days(runs: Sequence[Path]) -> list[int]:
    """Return the days that every run scored; all must have scored the same."""
    first, *others = runs
    days = scored_days(first)
    for other in others:
        if (theirs := scored_days(other)) != days:
            spans = [f"{one[0]} to {one[-1]} ({len(one)} days)" for one in (theirs, days)]
            raise UserError(
                f"{other} scored {spans[0]} and {first} {spans[1]}; train both with the same days"
            )
    return days


def load_scores(run: Path, *, days: Sequence[int], tasks: Sequence[str]) -> DayScores:
    """Read what a run scored on ``days``."""
    keys = ["row_id", "user", *(f"label_{task}" for task in tasks)]
    columns = [*keys, *(f"logit_{task}" for task in tasks)]
    paths = [path for day in days for path in sorted(run.glob(f"scores/day={day}/part-*.parquet"))]
    table = pa.concat_tables([_read(path, columns=columns, run=run) for path in paths])
    table = table.sort_by("row_id")
    row_id_N = table["row_id"].to_numpy()
    twice = np.flatnonzero(row_id_N[1:] == row_id_N[:-1])
    if twice.size:
        why = "give its schema a row_id" if row_id_N[twice[0]] < 0 else "rerun pretrain"
        raise UserError(f"the scores of {run} hold row_id {row_id_N[twice[0]]} twice; {why}")
    return DayScores(
        row_id_N=row_id_N,
        user_N=table["user"].to_numpy(),
        label_N={task: pc.fill_null(table[f"label_{task}"], NO_LABEL).to_numpy() for task in tasks},
        logit_N={task: table[f"logit_{task}"].to_numpy() for task in tasks},
    )


def _read(path: Path, *, columns: Sequence[str], run: Path) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            known = file.schema_arrow.names
            missing = [name for name in columns if name not in known]
            if not missing:
                return file.read(columns=list(columns))
    except pa.ArrowInvalid as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a readable Parquet file ({reason}); rerun {run}") from error
    tasks = [name.removeprefix("logit_") for name in known if name.startswith("logit_")]
    raise UserError(
        f"{path} has no column {missing[0]}; the run scored {', '.join(tasks)}, compare these"
    )


def check_same_rows(rows: DayScores, other: DayScores, *, first: Path, run: Path) -> None:
    """Refuse a run that scored other rows, or the same rows with other labels, than ``first``."""
    if not np.array_equal(rows.row_id_N, other.row_id_N):
        common = len(np.intersect1d(rows.row_id_N, other.row_id_N))
        raise UserError(
            f"{run} scored other rows than {first} ({len(other.row_id_N)} and"
            f" {len(rows.row_id_N)}, {common} in common); train both on the same data and days"
        )
    for task, label_N in rows.label_N.items():
        if not np.array_equal(label_N, other.label_N[task]):
            raise UserError(
                f"{run} and {first} have different label_{task} for the same rows; prepare the"
                " dataset once and rerun both"
            )
