"""Converts KuaiRand to a dataset folder, day by day."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from data.kuairand.beijing import FIRST_DAY, HISTORY_DAYS, REFERENCE_DATE, day_start_ms
from data.kuairand.entities import Entities, load_items, load_users
from data.kuairand.log import Log, load_log
from data.kuairand.moments import Moments
from data.kuairand.past import Past
from data.kuairand.rows import day_blocks
from data.kuairand.schema import NUMBERS, build_schema
from data.kuairand.source import find_source
from data.kuairand.vectors import Space, empty_space, fit_space
from lfm4ads.data.dataset import DatasetWriter, FileConfig

_log = logging.getLogger("lfm4ads.kuairand")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One conversion."""

    dataset: Literal["kuairand"] = "kuairand"
    source: Path
    """Unpacked KuaiRand-Pure or KuaiRand-1K, or the Parquet subset."""
    output: Path
    overwrite: bool = False
    sequence_length: int = 20
    """Events kept in a behaviour sequence."""
    prior_exposures: float = 10.0
    """A long-view rate is smoothed as if so many exposures at the overall rate had been seen."""
    vector_days: int = 8
    """Long views of so many first days make ``user_vector`` and ``video_vector`` of later rows."""
    files: FileConfig = field(default_factory=FileConfig)

    def __post_init__(self) -> None:
        if self.sequence_length < 1:
            raise ValueError(f"sequence_length must be at least 1, got {self.sequence_length}")
        if self.prior_exposures <= 0:
            raise ValueError(f"prior_exposures must be positive, got {self.prior_exposures}")
        if not 1 <= self.vector_days <= HISTORY_DAYS:
            raise ValueError(
                f"vector_days must be in 1..{HISTORY_DAYS}, so that it ends before 25 April,"
                f" got {self.vector_days}"
            )


def run(config: Config) -> Path:
    """Write the dataset to ``config.output`` and return it."""
    with DatasetWriter(config.output, overwrite=config.overwrite, files=config.files) as writer:
        source = find_source(config.source)
        log = load_log(source)
        users = load_users(source.users, log_keys=np.unique(log.users))
        items = load_items(source.items, log_keys=np.unique(log.videos))
        _log_sizes(log, users=users, items=items)
        history, reference = Moments(NUMBERS), Moments(NUMBERS)
        past = Past(
            num_users=len(users),
            num_items=len(items),
            length=config.sequence_length,
            prior_exposures=config.prior_exposures,
        )
        num_fitted = _num_rows_before(log, days=config.vector_days)
        nothing = empty_space(num_users=len(users), num_items=len(items))
        space = _fit(log.select(slice(0, num_fitted)), users=users, items=items)
        # disable=None: quiet when not a terminal
        bar = tqdm(total=len(log), desc="prepare", unit="row", unit_scale=True, disable=None)
        for day, rows in log.days():
            part = log.select(rows)
            for block in day_blocks(
                part,
                first_row_id=rows.start,
                users=users,
                items=items,
                past=past,
                space=nothing if rows.start < num_fitted else space,
            ):
                writer.write_day(day, block)
                bar.update(block.num_rows)
                if day < REFERENCE_DATE:
                    history.add(block)
                elif day == REFERENCE_DATE:
                    reference.add(block)
            _add_to_past(past, part, users=users, items=items)
        bar.close()
        schema = build_schema(
            users, items=items, history=history, reference=reference, length=config.sequence_length
        )
        return writer.finish(schema, config=config)


def _num_rows_before(log: Log, *, days: int) -> int:
    """Return how many rows happened before the end of the first days."""
    return int(np.searchsorted(log.times_ms, day_start_ms(FIRST_DAY + days)))


def _fit(log: Log, *, users: Entities, items: Entities) -> Space:
    seen = log.long_view == 1
    return fit_space(
        users.index(log.users[seen]),
        items=items.index(log.videos[seen]),
        num_users=len(users),
        num_items=len(items),
    )


def _add_to_past(past: Past, log: Log, *, users: Entities, items: Entities) -> None:
    past.add(
        users.index(log.users),
        items=items.index(log.videos),
        times_ms=log.times_ms,
        long_views=log.long_view,
    )


def _log_sizes(log: Log, *, users: Entities, items: Entities) -> None:
    _log.info(
        "%d exposures of %d users and %d videos; the features files lack %d of the users and %d of "
        "the videos, whose features are null",
        len(log),
        len(users),
        len(items),
        users.num_unknown,
        items.num_unknown,
    )
