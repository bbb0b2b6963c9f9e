"""Standalone Retrieval built: what it reads, its model on its ranks, its space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.core.seed import seed_torch
from lfm4ads.data.attach import KeptTables, Reps, RepsReader
from lfm4ads.data.index import Dataset, select_rows
from lfm4ads.data.reader import Reader, scoring
from lfm4ads.data.rows import KeptRows
from lfm4ads.model.arm import match_names
from lfm4ads.model.retrieval import ITEM, Retrieval
from lfm4ads.shard.sharded import Sharded, shard_model
from lfm4ads.train.interactions import ItemCounts, ItemDays, item_counts, item_days, liked
from lfm4ads.train.levels import fit_levels
from lfm4ads.train.popularity import POPULARITY, Popularity, PopularReader
from lfm4ads.train.retrieved import Truth
from lfm4ads.train.retriever import Retriever, RetrieverConfig
from lfm4ads.train.softmax import frequency
from lfm4ads.train.space import OwnSpace, Space, StoredSpace


@dataclass(frozen=True, kw_only=True)
class SourcesConfig:
    """Which rows all runs of a study share."""

    domain: str
    """Whose items are retrieved."""
    scenarios: tuple[str, ...]
    """Whose rows train and are judged; empty: all of the domain."""
    task: str
    """Its positives are what users like."""
    whole_catalogue: bool
    """Retrieve every item that has an IR, of whatever domain."""


@dataclass(frozen=True, kw_only=True)
class RetrievalSources:
    """What all runs of a study read."""

    dataset: Dataset
    """Rows that train and are evaluated."""
    history: Dataset
    """Rows of the domain, from the first day to the one before the last evaluated."""
    reps: Reps
    """Where representations are read, whatever their names."""
    known: ItemDays
    """Items of the domain."""
    whole_catalogue: bool
    counts: ItemCounts
    """Of the training days."""
    truth: Truth
    kept: KeptTables = field(default_factory=KeptTables)
    """Vectors that all runs share."""
    kept_rows: KeptRows = field(default_factory=KeptRows)
    """Decoded rows of ``dataset`` that all runs share."""


def read_sources(
    config: SourcesConfig,
    *,
    dataset: Dataset,
    days: Mapping[str, Sequence[int]],
    reps: Reps,
    ranks: Ranks,
) -> RetrievalSources:
    """Read who liked what, and since when items are known; ``days`` are the splits'. Collective."""
    task = config.task
    every = [day for some in days.values() for day in some]
    rows = select_rows(
        dataset, domains=[config.domain], scenarios=config.scenarios, days=every, ranks=ranks
    )
    for name, some in days.items():
        if not sum(rows.rows(day) for day in some):
            raise UserError(
                f"{dataset.path} has no {config.domain} rows of the chosen scenarios in the {name}"
                " days",
                everywhere=True,
            )
    before = [day for day in sorted(dataset.days) if day < max(every)]
    history = select_rows(dataset, domains=[config.domain], days=before, ranks=ranks)
    known = item_days(history, before, task=task, ranks=ranks)
    counts = item_counts(rows, days["train"], task=task, ranks=ranks)
    if not counts.positives.sum():
        raise UserError(
            f"{dataset.path} has no positive {task} in the train days; choose another task,"
            " scenarios or days",
            everywhere=True,
        )
    judged = (*days["valid"], *days["test"])
    truth = Truth(
        seen=liked(rows, days["train"], task=task, ranks=ranks, final=False),
        targets={day: liked(rows, [day], task=task, ranks=ranks, final=True) for day in judged},
        warm=known.until(max(days["train"])),
    )
    return RetrievalSources(
        dataset=rows,
        history=history,
        reps=reps,
        known=known,
        whole_catalogue=config.whole_catalogue,
        counts=counts,
        truth=truth,
    )


def choose_queries(
    reps: Reps, patterns: Mapping[str, Sequence[str]], *, day: int
) -> dict[str, tuple[str, ...]]:
    """Return which of the user's representations of ``day`` each arm's patterns name."""
    names = reps.every(day)
    if ITEM not in names:
        raise UserError(f"{reps.root} has no {ITEM}; run dump with item representations")
    users = tuple(name for name in names if name.startswith("user."))
    return {arm: match_names(tuple(own), users) for arm, own in patterns.items()}


def build_retrieval(
    config: RetrieverConfig, sources: RetrievalSources, *, ranks: Ranks
) -> Retriever:
    """Return the run, ready to fit. Collective."""
    dataset = sources.dataset
    reference = config.first_day if config.align_days else 0
    both = (*config.query, ITEM) if config.query else ()
    reps = replace(sources.reps, names=both, reference=reference)
    trainer, scorer = (
        _reader(config, sources, reps, ranks=ranks, train=train) for train in (True, False)
    )
    window = config.model.popularity_days if config.query else 0
    popularity = Popularity(shown=sources.known.shown, window=window) if window else None
    sharded = _model(config, sources, reps, trainer, popularity=popularity, ranks=ranks)
    space: Space
    if config.query:
        space = StoredSpace(
            sharded=sharded,
            users=replace(reps, names=config.query),
            items=replace(reps, names=(ITEM,)),
            known=None if sources.whole_catalogue else sources.known,
            popularity=popularity,
        )
    else:
        # Other rows of the same files: nothing that is kept of the study's own may be read.
        history = replace(
            sources, dataset=sources.history, kept=KeptTables(), kept_rows=KeptRows(limit_bytes=0)
        )
        space = OwnSpace(
            sharded=sharded,
            history=_reader(config, history, reps, ranks=ranks, train=False),
            history_days=tuple(sorted(sources.history.days)),
        )
    counts = sources.counts
    chosen = counts.rows if config.softmax.candidates == "rows" else counts.positives
    return Retriever(
        config=config,
        sharded=sharded,
        schema=dataset.schema,
        trainer=PopularReader(trainer, popularity) if popularity else trainer,
        scorer=PopularReader(scorer, popularity) if popularity else scorer,
        space=space,
        truth=sources.truth,
        frequency=frequency(counts.items[chosen > 0], chosen[chosen > 0]),
    )


def _reader(
    config: RetrieverConfig, sources: RetrievalSources, reps: Reps, *, ranks: Ranks, train: bool
) -> RepsReader:
    plain = Reader(
        sources.dataset,
        config=config.reader if train else scoring(config.reader),
        ranks=ranks,
        seed=config.seed,
        final_labels=not train,
        kept=sources.kept_rows,
    )
    return RepsReader(plain, reps, ranks=ranks, kept=sources.kept)


def _model(
    config: RetrieverConfig,
    sources: RetrievalSources,
    reps: Reps,
    trainer: RepsReader,
    *,
    popularity: Popularity | None,
    ranks: Ranks,
) -> Sharded:
    schema, first = sources.dataset.schema, config.first_day
    dims: dict[str, int] = {}
    with ranks.together():
        dims |= reps.dims(first) if reps.names else {}
    if popularity is not None:
        dims[POPULARITY] = 1
    seed_torch(config.seed)
    model = Retrieval(schema, config.model, query=config.query, rep_dims=dims, loss=config.loss)
    if model.stored:
        with ranks.together():
            moments = reps.moments(first)
            if popularity is not None:
                moments[POPULARITY] = popularity.moments(first)
            model.standardiser.set_moments(moments)
            if popularity is not None and config.loss == "softmax":
                std = float(moments[POPULARITY].std[0])
                model.set_popularity(POPULARITY, std=std)
    rows, positives = sources.counts.rows.sum(), sources.counts.positives.sum()
    model.set_prior((positives + 1) / (rows + 2))
    fit_levels(model, trainer, schema=schema, day=first, ranks=ranks)
    scales = {"query_map.": config.model.query_lr_scale} if model.stored else {}
    return shard_model(model, config=config.shard, ranks=ranks, seed=config.seed, lr_scales=scales)
