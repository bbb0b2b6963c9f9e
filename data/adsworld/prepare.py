"""Write an ads world as a dataset folder, with the true probabilities beside it."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from data.adsworld.columns import DICTIONARY, day_table, oracle_table
from data.adsworld.history import empty_history
from data.adsworld.schema import MomentSums, build_schema, task_names
from data.adsworld.world import (
    WorldConfig,
    build_world,
    check_keys,
    make_day,
    remember_day,
    tell_tastes,
)
from lfm4ads.data.dataset import DatasetWriter, FileConfig

_LOG = logging.getLogger("lfm4ads.adsworld")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One simulated dataset."""

    dataset: Literal["adsworld"] = "adsworld"
    output: Path
    overwrite: bool = False
    seed: int = 0
    first_day: int = 20260101
    """YYYYMMDD."""
    days: int = 8
    fit_days: int = 3
    """The schema's means and deviations of numbers come from so many first days."""
    tasks: tuple[str, ...] = ()
    """Tasks that the schema names; empty: all. The label columns are there in any case."""
    world: WorldConfig = field(default_factory=WorldConfig)
    files: FileConfig = field(default_factory=FileConfig)

    def __post_init__(self) -> None:
        if self.days < 1 or self.fit_days < 1:
            raise ValueError(
                f"days and fit_days must be at least 1, got {self.days} and {self.fit_days}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        known = task_names(self.world)
        for task in self.tasks:
            if task not in known:
                raise ValueError(f"tasks names {task}; this world has {', '.join(known)}")
        check_keys(self.world, days=self.days)
        calendar_days(self.first_day, days=self.days)


def run(config: Config) -> Path:
    """Write the dataset and return its folder."""
    began = time.perf_counter()
    writer = DatasetWriter(
        config.output, overwrite=config.overwrite, files=config.files, dictionary=DICTIONARY
    )
    with writer:
        sums = MomentSums()
        _write_days(config, writer=writer, sums=sums)
        schema = build_schema(
            config.world, days=config.days, moments=sums.moments(), tasks=config.tasks
        )
        output = writer.finish(schema, config=config)
    rows = sum(writer.rows_per_day.values())
    rate = rows / (time.perf_counter() - began)
    _LOG.info("wrote %d rows of %d days, %.0f rows/s, to %s", rows, config.days, rate, output)
    return output


def calendar_days(first_day: int, *, days: int) -> Iterator[date]:
    """Return the calendar days of a dataset, or say why there are none."""
    try:
        first = datetime.strptime(str(first_day), "%Y%m%d").replace(tzinfo=UTC).date()
        last = first + timedelta(days=days - 1)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"first_day must be a date written YYYYMMDD, got {first_day} with days={days}"
        ) from error
    return (first + timedelta(days=number) for number in range((last - first).days + 1))


def _write_days(config: Config, *, writer: DatasetWriter, sums: MomentSums) -> None:
    world, history = build_world(config.world, seed=config.seed), empty_history()
    calendar = calendar_days(config.first_day, days=config.days)
    bar = tqdm(calendar, total=config.days, unit="day", desc="prepare", disable=None)
    for number, date_ in enumerate(bar):
        start = int(datetime(*date_.timetuple()[:3], tzinfo=UTC).timestamp()) * 1_000
        day = make_day(world, day=number, start=start)
        taste = tell_tastes(world, history=history, users=day.shown.users.index)
        table = day_table(day, number=number, history=history, taste=taste)
        if number < config.fit_days:
            sums.add(table)
        name = int(date_.strftime("%Y%m%d"))
        writer.write_day(name, table)
        writer.write_side_day("oracle", day=name, table=oracle_table(day, number=number))
        history = remember_day(history, day=day, config=config.world.history)
