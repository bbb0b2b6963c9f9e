"""Choose which representations, which of their dims, or which features a downstream model reads.

torchrun --standalone --nproc-per-node 2 -m launch.select configs/select/adsworld.yaml

It writes ``features.yaml``, which transfer and pretrain accept, ``path.svg`` and ``report.json``.

Dimension key: N rows.
"""

import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lfm4ads.core.config import config_yaml
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import prepare_output, whole_file, write_json, write_text
from lfm4ads.core.log import log
from lfm4ads.core.ranks import Ranks
from lfm4ads.core.version import git_commit
from lfm4ads.data.attach import Reps, all_representations, resolve_version
from lfm4ads.data.choice import Choice, ChosenBy, write_choice
from lfm4ads.data.index import open_dataset
from lfm4ads.data.reader import ReaderConfig
from lfm4ads.data.schema import Schema
from lfm4ads.selection.criteria import Criterion
from lfm4ads.selection.distributed import RowsOptions, select_rows
from lfm4ads.selection.path import Search
from lfm4ads.selection.plot import plot_path
from lfm4ads.selection.rows import ArrayRows, RowBatch
from lfm4ads.selection.select import PathRow, Selection, SelectOptions
from lfm4ads.train.candidates import Candidates, Choose, Wanted, model_of, read_candidates

Array = npt.NDArray[Any]
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Config:
    """One selection."""

    data: Path
    reps: Path
    """Root of the representations that dump wrote; not read where ``choose`` is features."""
    output: Path
    overwrite: bool = False
    upstream: str = ""
    """Version of the representations; empty when there is only one."""
    domain: str = "ads"
    task: str = "click"
    """A binary task is fitted by a logistic, a real one by a linear, a time to an event by a Cox
    model, censored at the end of the last day."""
    among: str = ""
    """Only rows where this task's label is 1, such as click for a delay from click to conversion;
    empty: all."""
    choose: Choose = "blocks"
    """Whole representations, single dims (depends on their rotation), or schema features."""
    first_day: int
    last_day: int
    max_rows: int = 200_000
    """Rows of all ranks that are held in memory, the first of every day."""
    size: int = 0
    """Units to choose; 0 lets the criterion choose."""
    max_size: int = 0
    """Largest size tried; 0 leaves it to the number of rows."""
    search: Search = "sequential"
    criterion: Criterion = "ebic"
    screening: int = 0
    """Units kept by their marginal sacrifice before the search; 0 keeps all."""
    ridge: float = 1e-4
    buckets: int = 16
    """Columns an id feature is hashed into where features are chosen."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)

    def __post_init__(self) -> None:
        if self.first_day > self.last_day or self.max_rows < 1 or self.buckets < 2:
            raise ValueError("need first_day <= last_day, max_rows >= 1 and buckets >= 2")
        if self.criterion == "cv" and not self.size:
            raise ValueError("criterion cv is for rows in one memory; name aic, bic, ebic or gic")


def run(config: Config, ranks: Ranks) -> Path:
    """Select and write ``features.yaml``; return the output folder."""
    started = time.monotonic()
    dataset = open_dataset(config.data, ranks)
    _check_tasks(config, dataset.schema)
    reps = _open_reps(config, ranks)
    with ranks.together():
        if ranks.is_first:
            prepare_output(config.output, overwrite=config.overwrite)
            write_text(config.output / "config.yaml", config_yaml(config))
    rows = read_candidates(_wanted(config), dataset, reps=reps, ranks=ranks)
    ones_N = np.ones(len(rows.label_N))
    source = ArrayRows(RowBatch(rows.matrix_NP, rows.label_N, ones_N, rows.event_N))
    options = _options(config, dataset.schema, rows)

    def summed(values: Array) -> Array:
        ranks.leave_if_stopped("nothing is written; run the same command to begin again")
        return ranks.sum(values)

    found = select_rows(source, options, sum_over_ranks=summed)
    num_rows = int(ranks.sum(np.array([len(rows.label_N)]))[0])
    with ranks.together():
        if ranks.is_first:
            _write(config, rows, found)
            report = _report(config, rows, found, model=options.model)
            report |= {"rows": num_rows, "seconds": time.monotonic() - started}
            write_json(config.output / "report.json", report)
    return config.output


def _check_tasks(config: Config, schema: Schema) -> None:
    for name, known in (("task", list(schema.tasks)), ("among", ["", *schema.binary_tasks])):
        value = getattr(config, name)
        if value not in known:
            raise UserError(
                f"{config.data} has no task {value} for {name}; it has"
                f" {', '.join(one for one in known if one)}",
                everywhere=True,
            )


def _open_reps(config: Config, ranks: Ranks) -> Reps | None:
    found: list[Reps] = []
    with ranks.together():
        if config.choose != "features":
            version = resolve_version(config.reps, config.upstream)
            names = all_representations(config.reps, version=version, day=config.first_day)
            found.append(Reps(config.reps, version, names, config.first_day))
    return found[0] if found else None


def _wanted(config: Config) -> Wanted:
    return Wanted(
        domain=config.domain,
        task=config.task,
        among=config.among,
        choose=config.choose,
        first_day=config.first_day,
        last_day=config.last_day,
        max_rows=config.max_rows,
        buckets=config.buckets,
        reader=config.reader,
    )


def _options(config: Config, schema: Schema, rows: Candidates) -> RowsOptions:
    return RowsOptions(
        model=model_of(schema, config.task),
        ridge=config.ridge,
        select=SelectOptions(
            size=config.size or None,
            largest=config.max_size or None,
            search=config.search,
            criterion=config.criterion,
            screening=config.screening or None,
            groups=None if config.choose == "dims" else np.array(rows.units_P),
        ),
    )


def _write(config: Config, rows: Candidates, found: Selection) -> None:
    """Write the choice for the stages after this one, and the figure."""
    chosen: list[int] = found.coefficients.columns_K.tolist()
    units = tuple(dict.fromkeys(rows.units_P[j] for j in chosen))
    dims: dict[str, list[int]] = {}
    if config.choose == "dims":
        for j in chosen:
            dims.setdefault(rows.units_P[j], []).append(int(rows.names_P[j].rsplit(":", 1)[1]))
    choice = Choice(
        features=units if config.choose == "features" else None,
        representations=None if config.choose == "features" else units,
        dims=dims,
        criterion=ChosenBy(name=found.criterion, value=_value(found)),
        command=shlex.join(sys.orig_argv[1:]),
    )
    write_choice(config.output / "features.yaml", choice)
    with whole_file(config.output / "path.svg") as temporary:
        plot_path(found).savefig(temporary, format="svg")
    words = "%d of %d columns, of %s, are in %s"
    log.info(words, len(chosen), len(rows.units_P), ", ".join(units) or "none", config.output)


def _value(found: Selection) -> float:
    name = "ebic" if found.criterion == "size" else found.criterion
    return float(getattr(found.chosen.criteria, name))


def _report(config: Config, rows: Candidates, found: Selection, *, model: str) -> Json:
    return {
        "schema_version": 1,
        "stage": "select",
        "dataset": str(config.data),
        "commit": git_commit(),
        "command": f"torchrun -m launch.select {' '.join(sys.argv[1:])}",
        "task": config.task,
        "model": model,
        "choose": config.choose,
        "criterion": found.criterion,
        "candidates": {"columns": len(rows.units_P), "units": len(set(rows.units_P))},
        "chosen": _line(rows, found.chosen, is_chosen=True),
        "path": [_line(rows, row, is_chosen=row is found.chosen) for row in found.rows],
    }


def _line(rows: Candidates, row: PathRow, *, is_chosen: bool) -> Json:
    columns: list[int] = row.coefficients.columns_K.tolist()
    return {
        "size": row.size,
        "chosen": is_chosen,
        "columns": [rows.names_P[j] for j in columns],
        "units": sorted({rows.units_P[j] for j in columns}),
        "deviance": row.deviance,
        "aic": row.criteria.aic,
        "bic": row.criteria.bic,
        "ebic": row.criteria.ebic,
        "gic": row.criteria.gic,
        "separated": row.separated,
    }
