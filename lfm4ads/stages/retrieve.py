"""Standalone Retrieval: train query maps, index the items, write every user's top K.

torchrun --standalone --nproc-per-node 2 -m launch.retrieve configs/retrieve/adsworld.yaml
"""

import re
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from lfm4ads.core.config import config_yaml
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import write_json
from lfm4ads.core.log import MetricsLog, log
from lfm4ads.core.ranks import Ranks
from lfm4ads.core.version import digest, git_commit
from lfm4ads.data.attach import Reps, resolve_version
from lfm4ads.data.index import Dataset, open_dataset
from lfm4ads.data.reader import ReaderConfig
from lfm4ads.model.retrieval import ITEM, RetrievalConfig, RetrievalLoss
from lfm4ads.shard.sharded import ShardConfig
from lfm4ads.train.index import IndexConfig
from lfm4ads.train.retrieval import (
    RetrievalSources,
    SourcesConfig,
    build_retrieval,
    choose_queries,
    read_sources,
)
from lfm4ads.train.retrieved import Json, ListConfig, figure_of
from lfm4ads.train.retriever import RetrievalFitConfig, Retriever, RetrieverConfig
from lfm4ads.train.softmax import SoftmaxConfig
from lfm4ads.train.split import SplitConfig
from lfm4ads.train.study import Study
from lfm4ads.train.top_lists import serve


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """Folders that other stages wrote."""

    data: Path
    reps: Path
    """Root of the representations that dump wrote."""
    upstream: str = ""
    """Version of the representations; empty when there is only one."""
    as_of: int = 0
    """Snapshot that samples of every day read; 0: each day the newest before it. One for all days
    tells training samples of their future, as the public code of LFM4Ads does: for comparison."""


@dataclass(frozen=True, kw_only=True)
class QueryConfig:
    """One arm."""

    query: tuple[str, ...] = ()
    """Representations of the user, by name or pattern (``user.ur``, ``user.cr_*``); empty: the
    baseline "Retriever", two towers over own embeddings from scratch."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Retrieval runs, one an arm and seed."""

    input: InputConfig
    output: Path
    overwrite: bool = False
    domain: str = "ads"
    scenarios: tuple[str, ...] = ()
    """Scenarios whose rows train and are judged; empty: all of the domain."""
    task: str = "click"
    arms: dict[str, QueryConfig]
    seeds: tuple[int, ...] = (0, 1, 2)
    split: SplitConfig
    align_days: bool = True
    """Put every day's representations on the scale of the first training day's."""
    loss: RetrievalLoss = "softmax"
    softmax: SoftmaxConfig = field(default_factory=SoftmaxConfig)
    fit: RetrievalFitConfig = field(default_factory=RetrievalFitConfig)
    reader: ReaderConfig = field(default_factory=lambda: ReaderConfig(batch_size=1024))
    model: RetrievalConfig = field(default_factory=RetrievalConfig)
    lists: ListConfig = field(default_factory=ListConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)

    def __post_init__(self) -> None:
        if not (self.arms and self.seeds):
            raise ValueError("arms and seeds must each name at least one")
        for arm in self.arms:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", arm):
                raise ValueError(f"arm {arm!r} must be of a-z, 0-9 and _: it names a folder")


@dataclass(frozen=True)
class _Setting:
    """What all arms and seeds share."""

    config: Config
    ranks: Ranks
    sources: RetrievalSources
    queries: dict[str, tuple[str, ...]]
    """Representations of the user by arm, patterns resolved."""
    days: dict[str, list[int]]


def run(config: Config, ranks: Ranks) -> Path:
    """Train every arm and seed that is not finished yet; return the output folder."""
    setting = _open(config, ranks)

    def own(arm: str, seed: int) -> str:
        return config_yaml(replace(config, arms={arm: config.arms[arm]}, seeds=(seed,)))

    study = Study(
        output=config.output,
        arms=list(config.arms),
        seeds=config.seeds,
        overwrite=config.overwrite,
        digest=lambda arm: _digest(setting, arm=arm),
        config=own,
        results=("predictions", "index", "lists"),
    )
    return study.run(
        lambda arm, seed: _run_arm(setting, study.folder(arm, seed), arm=arm, seed=seed),
        ranks=ranks,
    )


def _open(config: Config, ranks: Ranks) -> _Setting:
    dataset = open_dataset(config.input.data, ranks)
    days = config.split.days(dataset)
    _check_task(config, dataset)
    reps, queries = _resolve(config, ranks)
    sources = read_sources(
        SourcesConfig(
            domain=config.domain,
            scenarios=config.scenarios,
            task=config.task,
            whole_catalogue=config.lists.catalogue == "all",
        ),
        dataset=dataset,
        days=days,
        reps=reps,
        ranks=ranks,
    )
    return _Setting(config, ranks, sources, queries, days)


def _check_task(config: Config, dataset: Dataset) -> None:
    known = dataset.schema.binary_tasks
    if config.task not in known:
        raise UserError(
            f"task {config.task} cannot be retrieved for; {config.input.data} has"
            f" {', '.join(known)}",
            everywhere=True,
        )


def _resolve(config: Config, ranks: Ranks) -> tuple[Reps, dict[str, tuple[str, ...]]]:
    """Return where representations are and what each arm's patterns name; checked on every rank."""
    found: list[Reps] = []
    queries: dict[str, tuple[str, ...]] = {}
    with ranks.together():
        version = resolve_version(config.input.reps, config.input.upstream)
        found.append(Reps(config.input.reps, version, (), as_of=config.input.as_of))
        patterns = {arm: one.query for arm, one in config.arms.items()}
        queries |= choose_queries(found[0], patterns, day=config.split.train_first)
    return found[0], queries


def _digest(setting: _Setting, *, arm: str) -> str:
    """Name what the result of an arm and seed depends on."""
    config = setting.config
    same = replace(config, arms={arm: config.arms[arm]}, seeds=(0,), overwrite=False, output=Path())
    return digest(same, setting.sources.reps.version, setting.sources.dataset.schema)


def _run_arm(setting: _Setting, folder: Path, *, arm: str, seed: int) -> None:
    config, ranks = setting.config, setting.ranks
    started = time.monotonic()
    built = _build(setting, arm=arm, seed=seed)
    metrics = MetricsLog(folder / "metrics.jsonl", ranks=ranks)
    fitted = built.fit(
        config.fit,
        train=setting.days["train"],
        valid=setting.days["valid"],
        metrics=metrics,
        stop=ranks.stop,
    )
    rows: list[Json] = []
    lists: list[Json] = []
    for split in ("valid", "test"):
        path = folder / "predictions" / f"split={split}" / f"part-{ranks.rank:05d}.parquet"
        rows += built.metric_rows(setting.days[split], split=split, path=path)
        lists += built.retrieve(setting.days[split], split=split)
    for row in lists:
        words = f"recall@{row['k']}/{row['scenario']}/{row['items']}"
        metrics.write(words, row["recall"], step=fitted.best_epoch, split=row["split"])
    served = _serve(setting, built, folder=folder, arm=arm) if config.lists.write else {}
    report = {
        "schema_version": 1,
        "stage": "retrieve",
        "arm": arm,
        "seed": seed,
        "dataset": str(config.input.data),
        "scenarios": list(config.scenarios),
        "upstream": setting.sources.reps.version,
        "digest": _digest(setting, arm=arm),
        "commit": git_commit(),
        "command": f"torchrun -m launch.retrieve {' '.join(sys.argv[1:])}",
        "representations": [*setting.queries[arm], ITEM] if setting.queries[arm] else [],
        "best_epoch": fitted.best_epoch,
        "rows_per_second": fitted.rows / max(fitted.seconds, 1e-9),
        "num_parameters": built.sharded.num_parameters(),
        "metrics": rows,
        "lists": lists,
        **served,
        "seconds": time.monotonic() - started,
    }
    with ranks.together():
        if ranks.is_first:
            write_json(folder / "report.json", report)
    _say(config, report)


def _build(setting: _Setting, *, arm: str, seed: int) -> Retriever:
    config = setting.config
    return build_retrieval(
        RetrieverConfig(
            words=f"{arm} seed {seed}",
            query=setting.queries[arm],
            seed=seed,
            task=config.task,
            ks=config.lists.ks,
            first_day=config.split.train_first,
            align_days=config.align_days,
            loss=config.loss,
            softmax=config.softmax,
            reader=config.reader,
            model=config.model,
            shard=config.shard,
        ),
        setting.sources,
        ranks=setting.ranks,
    )


def _serve(setting: _Setting, built: Retriever, *, folder: Path, arm: str) -> Json:
    # Own towers are a model of their own: their vectors have nothing to do with the upstream's.
    stored = bool(setting.queries[arm])
    version = setting.sources.reps.version if stored else _digest(setting, arm=arm)
    (space,) = built.space.at([setting.days["test"][-1]])
    served = serve(
        folder,
        space,
        setting.sources.truth,
        config=setting.config.index,
        k=max(setting.config.lists.ks),
        version=version,
        ranks=setting.ranks,
    )
    return {"index": served}


def _say(config: Config, report: Json) -> None:
    k = max(config.lists.ks)
    test = [row for row in report["lists"] if row["split"] == "test"]
    (auc,) = (
        row["auc"]
        for row in report["metrics"]
        if (row["split"], row["scenario"]) == ("test", "all")
    )
    figures = {f"recall@{k}": figure_of(test, k=k, name="recall"), "AUC": auc}
    words = [f"{name} {'-' if one is None else f'{one:.4f}'}" for name, one in figures.items()]
    run = f"{report['arm']} seed {report['seed']}"
    epoch, seconds = report["best_epoch"] + 1, report["seconds"]
    log.info("%s: test %s, best epoch %d, %.0f s", run, ", ".join(words), epoch, seconds)
