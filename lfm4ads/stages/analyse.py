"""Look inside a trained upstream and its representations: collapse, correlation, entanglement.

torchrun --standalone --nproc-per-node 2 -m launch.analyse configs/analyse/adsworld.yaml

It writes ``report.html``, one page that opens offline, its pictures as SVG and PNG to ``figures/``,
and every number to ``report.json``.
"""

import platform
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch

import lfm4ads
from lfm4ads.analysis.analyse_page import render_analysis
from lfm4ads.core.config import config_yaml
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import prepare_output, whole_file, write_json, write_text
from lfm4ads.core.log import log
from lfm4ads.core.ranks import Ranks
from lfm4ads.core.version import git_commit
from lfm4ads.data.attach import Reps, all_representations, resolve_version
from lfm4ads.data.index import Dataset, open_dataset
from lfm4ads.data.reader import Reader, ReaderConfig, scoring
from lfm4ads.model.lfm import Lfm
from lfm4ads.shard.place import PlaceConfig
from lfm4ads.train.analysed import Drawn, draw_health, entanglement_report, history_report
from lfm4ads.train.checkup import HealthConfig, check_snapshot, probe_reps
from lfm4ads.train.collapsed import collapse_report, fields_report, training_report
from lfm4ads.train.counted import Fields, HistoryConfig, Traffic, pairable_fields, passes
from lfm4ads.train.entangled import Pairs, PairsConfig, check_pairs_config, measure_pairs
from lfm4ads.train.fold import Upstream, place_upstream
from lfm4ads.train.lineage import open_lineage
from lfm4ads.train.spectra import measure_tables

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Config:
    """One analysis."""

    data: Path
    output: Path
    pretrain: Path | None = None
    """Run folder of the upstream model; None: only what rows and representations say."""
    reps: Path | None = None
    """Root of the representations that dump wrote; None leaves their health out."""
    overwrite: bool = False
    upstream: str = ""
    """Version of the representations; empty when there is only one."""
    day: int = 0
    """Checkpoint that is opened; 0: the newest."""
    first_day: int
    last_day: int
    """Days whose rows are counted, as traffic and for correlations."""
    task: str = "click"
    """Label of the correlations and probes."""
    history: HistoryConfig | None = None
    """Behaviours held against a target; None: none."""
    buckets: int = 16
    """Values of a field that pairs of fields tell apart; a pair has the square of it."""
    singles: dict[str, Path] = field(default_factory=dict[str, Path])
    """Two tasks -> the run folder of a pretrain that saw that task alone, for entanglement."""
    pair_day: int = 0
    """Day of the pairs that entanglement looks at; 0: ``last_day``."""
    pairs: PairsConfig = field(default_factory=PairsConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    seed: int = 0
    """Of the random tables."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    place: PlaceConfig = field(default_factory=PlaceConfig)

    def __post_init__(self) -> None:
        if self.first_day > self.last_day or self.buckets < 2:
            raise ValueError("need first_day <= last_day and buckets >= 2")
        if self.singles and (len(self.singles) != 2 or self.pretrain is None):
            raise ValueError("singles needs two tasks, and pretrain for the model they judge")


def run(config: Config, ranks: Ranks) -> Path:
    """Analyse; return the output folder."""
    started = time.monotonic()
    dataset = open_dataset(config.data, ranks)
    _check(config, dataset)
    with ranks.together():
        if ranks.is_first:
            prepare_output(config.output, overwrite=config.overwrite)
            write_text(config.output / "config.yaml", config_yaml(config))
    reader = Reader(dataset, config=scoring(config.reader), ranks=ranks, seed=0)
    upstream = _open(config.pretrain, dataset, day=config.day, place=config.place, ranks=ranks)
    report, drawn = _analyse(config, dataset, reader, upstream, ranks=ranks)
    report = {
        "schema_version": 1,
        "stage": "analyse",
        "dataset": str(config.data),
        "commit": git_commit(),
        "command": shlex.join(sys.orig_argv[1:]),
        "upstream": upstream.lineage.version if upstream else None,
        "checkpoint_day": _day_of(upstream, config) if upstream else None,
        **report,
        "lineage": _lineage(config, upstream, report),
        "versions": _versions(),
        "seconds": time.monotonic() - started,
    }
    with ranks.together():
        if ranks.is_first:
            _write(config, report, drawn)
    log.info("%d figures are in %s", len(drawn), config.output / "report.html")
    return config.output


def _check(config: Config, dataset: Dataset) -> None:
    tasks = dataset.schema.binary_tasks
    for task in (config.task, *config.singles):
        if task not in tasks:
            raise UserError(
                f"{config.data} has no task {task}; it has {', '.join(tasks)}", everywhere=True
            )
    if config.singles:
        check_pairs_config(config.pairs, dataset.schema)
    dataset.between(config.first_day, config.last_day)


def _open(
    folder: Path | None, dataset: Dataset, *, day: int, place: PlaceConfig, ranks: Ranks
) -> Upstream | None:
    """Return the model of a run with the weights of a day."""
    if folder is None:
        return None
    with ranks.together():
        lineage = open_lineage(folder)
        wanted = day or max(lineage.days)
        lineage.checkpoint(wanted)
    model = Lfm(dataset.schema, lineage.config)
    upstream = place_upstream(lineage, model, place=place, ranks=ranks)
    upstream.load(wanted)
    return upstream


def _day_of(upstream: Upstream, config: Config) -> int:
    return config.day or max(upstream.lineage.days)


def _lineage(config: Config, upstream: Upstream | None, report: Json) -> Json:
    """Return where each thing that was looked at came from."""
    found: Json = {"dataset": str(config.data)}
    if upstream is not None:
        found["upstream"] = upstream.lineage.version
        found["pretrain_run"] = str(upstream.lineage.folder)
        found["checkpoint_day"] = _day_of(upstream, config)
        found["checkpoints"] = len(upstream.lineage.days)
    for task, folder in config.singles.items():
        found[f"run_of_{task}_alone"] = str(folder)
    if config.reps is not None:
        found["representations"] = str(config.reps)
        found["representations_by_upstream"] = report["health"]["upstream"]
        found["snapshot"] = report["health"]["as_of"]
    return found


def _versions() -> dict[str, str]:
    return {
        "lfm4ads": f"{lfm4ads.__version__}, commit {git_commit() or 'unknown'}",
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "NumPy": np.__version__,
        "matplotlib": mpl.__version__,
    }


def _analyse(
    config: Config,
    dataset: Dataset,
    reader: Reader,
    upstream: Upstream | None,
    *,
    ranks: Ranks,
) -> tuple[Json, list[Drawn]]:
    days = dataset.between(config.first_day, config.last_day)
    without = upstream.lineage.config.without if upstream else ()
    names = pairable_fields(dataset.schema, without=without)
    traffic = Traffic(dataset.schema)
    fields = Fields(dataset.schema, names, task=config.task, buckets=config.buckets)
    for batch in passes(reader, days, ranks=ranks):
        traffic.add(batch)
        fields.add(batch)
    lookups, bits = traffic.merged(ranks), fields.merged(ranks)
    report: Json = {"days": days, "task": config.task}
    drawn: list[Drawn] = []
    views = []
    sharded = upstream.sharded if upstream else None
    if upstream is not None and sharded is not None:
        grams = measure_tables(sharded, traffic=lookups)
        report["collapse"], views, figures = collapse_report(
            grams, upstream.model, dataset.schema, lookups=lookups, seed=config.seed
        )
        drawn += figures
        report["training"], figures = _training(upstream, ranks)
        drawn += figures
    report["fields"], figures = fields_report(bits, views)
    drawn += figures
    if config.history is not None:
        report["history"], figures = history_report(
            config.history, dataset, days, task=config.task, sharded=sharded, ranks=ranks
        )
        drawn += figures
    if config.singles and sharded is not None:
        every = {"": measure_pairs(config.pairs, sharded, reader, [_pair_day(config)], ranks=ranks)}
        every |= _singles(config, dataset, reader, ranks=ranks)
        report["entanglement"], figures = entanglement_report(
            config.pairs, every, dataset.schema, lookups=lookups
        )
        drawn += figures
    if config.reps is not None:
        report["health"] = _health(config, reader, ranks=ranks)
        drawn += draw_health(report["health"])
    return report, drawn


def _training(upstream: Upstream, ranks: Ranks) -> tuple[list[Json], list[Drawn]]:
    with ranks.together():
        found = training_report(upstream.lineage.folder)
    return found


def _pair_day(config: Config) -> int:
    return config.pair_day or config.last_day


def _singles(config: Config, dataset: Dataset, reader: Reader, *, ranks: Ranks) -> dict[str, Pairs]:
    found: dict[str, Pairs] = {}
    for task, folder in config.singles.items():
        one = _open(folder, dataset, day=config.day, place=config.place, ranks=ranks)
        assert one is not None
        found[task] = measure_pairs(
            config.pairs, one.sharded, reader, [_pair_day(config)], ranks=ranks
        )
        if len(found[task].distance_N) > 1:
            raise UserError(
                f"{folder} has the table sets {', '.join(one.lineage.config.table_sets)}; a model"
                " of a single task in singles has one",
                everywhere=True,
            )
    return found


def _health(config: Config, reader: Reader, *, ranks: Ranks) -> Json:
    assert config.reps is not None
    version, names = "", ()
    with ranks.together():
        version = resolve_version(config.reps, config.upstream)
        if config.health.probe_days is not None:
            day = config.health.probe_days[0]
            names = all_representations(config.reps, version=version, day=day)
    found = check_snapshot(config.health, config.reps, version=version, ranks=ranks)
    if config.health.probe_days is not None:
        reps = Reps(config.reps, version, names)
        found["probes"] = probe_reps(config.health, reader, reps, task=config.task, ranks=ranks)
        found["probe_days"] = list(config.health.probe_days)
    return found


def _write(config: Config, report: Json, drawn: list[Drawn]) -> None:
    """Write figures and page, then ``report.json``, which says that the folder is whole."""
    output = config.output
    for picture, png in drawn:
        write_text(output / "figures" / f"{picture.name}.svg", picture.svg)
        with whole_file(output / "figures" / f"{picture.name}.png") as temporary:
            temporary.write_bytes(png)
    report["figures"] = [
        {"name": one.name, "section": one.section, "caption": one.caption, "alt": one.alt}
        for one, _ in drawn
    ]
    path = shlex.quote(str(output / "config.yaml"))
    page = render_analysis(
        report,
        pictures=[picture for picture, _ in drawn],
        command=f"python -m launch.analyse {path} overwrite=true",
        config=config_yaml(config),
    )
    write_text(output / "report.html", page)
    write_json(output / "report.json", report)
