"""Choose which representations, which of their dims, or which features a downstream model reads.

torchrun --standalone --nproc-per-node 2 -m launch.select configs/select/adsworld.yaml

Dimension key: N rows, P candidate columns.
"""

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import yaml

from lfm4ads.core.config import config_yaml
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import prepare_output, whole_file, write_json, write_text
from lfm4ads.core.log import log
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.attach import Reps, RepsReader, all_representations, resolve_version
from lfm4ads.data.batch import Batch
from lfm4ads.data.index import Dataset, open_dataset
from lfm4ads.data.index import select_rows as keep_rows
from lfm4ads.data.reader import Reader, ReaderConfig, scoring
from lfm4ads.selection.criteria import Criterion
from lfm4ads.selection.distributed import RowsOptions, select_rows
from lfm4ads.selection.path import Search
from lfm4ads.selection.plot import plot_path
from lfm4ads.selection.rows import ArrayRows, RowBatch
from lfm4ads.selection.select import Selection, SelectOptions

Doubles = npt.NDArray[np.float64]


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
    """A binary task is fitted by a logistic, a real one by a linear model."""
    choose: Literal["blocks", "dims", "features"] = "blocks"
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
    ridge: float = 1e-4
    buckets: int = 16
    """Columns an id feature is hashed into where features are chosen."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)

    def __post_init__(self) -> None:
        if self.first_day > self.last_day or self.max_rows < 1 or self.buckets < 2:
            raise ValueError("need first_day <= last_day, max_rows >= 1 and buckets >= 2")


@dataclass(frozen=True)
class _Rows:
    """Candidate columns (N, P), their units, and labels (N,)."""

    matrix_NP: Doubles
    units_P: list[str]
    names_P: list[str]
    label_N: Doubles


def run(config: Config, ranks: Ranks) -> Path:
    """Select and write ``features.yaml``; return the output folder."""
    dataset = open_dataset(config.data, ranks)
    task = dataset.schema.tasks.get(config.task)
    if task is None:
        raise UserError(
            f"{config.data} has no task {config.task}; it has {', '.join(dataset.schema.tasks)}",
            everywhere=True,
        )
    with ranks.together():
        if ranks.is_first:
            prepare_output(config.output, overwrite=config.overwrite)
            write_text(config.output / "config.yaml", config_yaml(config))
    rows = _read(config, dataset, ranks)
    options = RowsOptions(
        model="linear" if task.kind == "real" else "logistic",
        ridge=config.ridge,
        select=SelectOptions(
            size=config.size or None,
            largest=config.max_size or None,
            search=config.search,
            criterion=config.criterion,
            groups=None if config.choose == "dims" else np.array(rows.units_P),
        ),
    )
    ones_N = np.ones(len(rows.label_N))
    source = ArrayRows(RowBatch(rows.matrix_NP, rows.label_N, ones_N, ones_N))
    found = select_rows(source, options, sum_over_ranks=ranks.sum)
    if ranks.is_first:
        _write(config, dataset, rows, found)
    ranks.barrier()
    return config.output


def _read(config: Config, dataset: Dataset, ranks: Ranks) -> _Rows:
    """Return this rank's rows of the days, an equal share of each. Collective."""
    days = dataset.between(config.first_day, config.last_day)
    chosen = keep_rows(dataset, domains=[config.domain], scenarios=(), days=days, ranks=ranks)
    reps: list[Reps] = []
    with ranks.together():
        if config.choose != "features":
            version = resolve_version(config.reps, config.upstream)
            names = all_representations(config.reps, version=version, day=config.first_day)
            reps.append(Reps(config.reps, version, names, config.first_day))
    reader = Reader(chosen, config=scoring(config.reader), ranks=ranks, seed=0)
    attached = RepsReader(reader, reps[0] if reps else None, ranks=ranks)
    share = max(1, config.max_rows // (len(days) * ranks.world))
    pieces = [piece for day in days for piece in _day(config, chosen, attached, day, share=share)]
    counted = ranks.sum(np.array([sum(len(one.label_N) for one in pieces)]))
    if not counted[0]:
        raise UserError(
            f"{config.data} has no labelled {config.domain} rows for task {config.task} in the"
            " days chosen; choose others",
            everywhere=True,
        )
    first = pieces[0]
    return _Rows(
        np.concatenate([one.matrix_NP for one in pieces]),
        first.units_P,
        first.names_P,
        np.concatenate([one.label_N for one in pieces]),
    )


def _day(
    config: Config, dataset: Dataset, reader: RepsReader, day: int, *, share: int
) -> Iterator[_Rows]:
    column = list(dataset.schema.tasks).index(config.task)
    left = share
    # The reader is collective at its start only: a rank with its share may leave the rest unread.
    for batch in reader.day(day):
        labelled = (batch.valid & (batch.masks[:, column] > 0)).numpy()
        keep = np.flatnonzero(labelled)[:left]
        left -= len(keep)
        columns = _features(config, dataset, batch) if config.choose == "features" else _dims(batch)
        yield _Rows(
            np.concatenate([part[keep] for part in columns.values()], axis=1).astype(np.float64),
            [name for name, part in columns.items() for _ in range(part.shape[1])],
            [f"{name}:{j}" for name, part in columns.items() for j in range(part.shape[1])],
            batch.labels[:, column].numpy()[keep].astype(np.float64),
        )
        if left <= 0:
            return


def _dims(batch: Batch) -> dict[str, npt.NDArray[np.float32]]:
    return {name: values.numpy() for name, values in batch.reps.items()}


def _features(config: Config, dataset: Dataset, batch: Batch) -> dict[str, npt.NDArray[np.float32]]:
    """Return numbers and vectors as they are, ids as shares of hash buckets; missing is 0."""
    schema = dataset.schema
    columns: dict[str, npt.NDArray[np.float32]] = {}
    for at, name in enumerate(schema.select(kind="number")):
        columns[name] = np.nan_to_num(batch.numbers[:, at : at + 1].numpy())
    at = 0
    for name in schema.select(kind="vector"):
        width = schema.features[name].length
        columns[name] = np.nan_to_num(batch.vectors[:, at : at + width].numpy())
        at += width
    for name in schema.select(sparse=True):
        jagged = batch.sparse[name]
        lengths = jagged.lengths().long()
        row_of = torch.repeat_interleave(torch.arange(len(batch)), lengths)
        # A multiplicative hash: neighbouring ids must not share a bucket for a reason.
        bucket = (jagged.values() * 2_654_435_761 >> 16) % config.buckets
        shares = torch.zeros(len(batch), config.buckets)
        weight = 1.0 / lengths.clamp(min=1).float()
        shares.index_put_((row_of, bucket), weight[row_of], accumulate=True)
        columns[name] = shares.numpy()
    return columns


def _write(config: Config, dataset: Dataset, rows: _Rows, found: Selection) -> None:
    """Write the fragment for other stages, the table of sizes and the figure."""
    chosen = [int(j) for j in found.coefficients.columns_K]
    units = list(dict.fromkeys(rows.units_P[j] for j in chosen))
    fragment: dict[str, Any] = {
        "features": units if config.choose == "features" else list(dataset.schema.features),
        "representations": [] if config.choose == "features" else units,
        "criterion": {"name": found.criterion, "value": _value(found)},
        "command": shlex.join(sys.orig_argv[1:]),
    }
    if config.choose == "dims":
        fragment["dims"] = {
            unit: [
                int(rows.names_P[j].rsplit(":", 1)[1]) for j in chosen if rows.units_P[j] == unit
            ]
            for unit in units
        }
    text = yaml.safe_dump(fragment, sort_keys=False, default_flow_style=None)
    write_text(config.output / "features.yaml", text)
    write_json(config.output / "selection.json", {"task": config.task, "path": _table(rows, found)})
    with whole_file(config.output / "path.svg") as temporary:
        plot_path(found).savefig(temporary, format="svg")
    log.info("%d of %d units are in %s", len(units), len(set(rows.units_P)), config.output)


def _value(found: Selection) -> float:
    name = "ebic" if found.criterion == "size" else found.criterion
    return float(getattr(found.chosen.criteria, name))


def _table(rows: _Rows, found: Selection) -> list[dict[str, Any]]:
    return [
        {
            "size": row.size,
            "chosen": row.size == found.chosen.size,
            "columns": [rows.names_P[int(j)] for j in row.coefficients.columns_K],
            "units": sorted({rows.units_P[int(j)] for j in row.coefficients.columns_K}),
            "deviance": row.deviance,
            "aic": row.criteria.aic,
            "bic": row.criteria.bic,
            "ebic": row.criteria.ebic,
            "gic": row.criteria.gic,
            "separated": row.separated,
        }
        for row in found.rows
    ]
