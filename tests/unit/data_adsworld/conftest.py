"""The debug world, prepared once, and what tests read from it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.adsworld.prepare import Config, run
from lfm4ads.core.config import load_config

ROOT = Path(__file__).parents[3]
DEBUG = str(ROOT / "configs/prepare/debug.yaml")


def prepare(output: Path, *words: str) -> Path:
    """Write the debug world with changes."""
    return run(load_config(Config, [DEBUG, f"output={output}", *words]))


def read_day(dataset: Path, day: int) -> pa.Table:
    """Return all rows of one day."""
    return pq.ParquetDataset(dataset / f"day={day}").read()


def days_of(dataset: Path) -> list[int]:
    """Return the days of a dataset in order."""
    return sorted(int(folder.name[4:]) for folder in dataset.glob("day=*"))


@pytest.fixture(scope="session")
def debug_world(tmp_path_factory) -> Path:
    return prepare(tmp_path_factory.mktemp("adsworld") / "debug")


@pytest.fixture(scope="session")
def big_world(tmp_path_factory) -> Path:
    """Two days of many rows at default rates, for what must be measured."""
    return prepare(
        tmp_path_factory.mktemp("adsworld") / "big",
        "days=2",
        "world.users.count=5000",
        "world.exposure.content_rows=30_000",
        "world.exposure.ads_rows=60_000",
        "world.feedback.ads_click_rate=0.04",
        "world.feedback.conversion_rate=0.1",
        "files.row_group_rows=8192",
        "files.rows_per_file=262_144",
    )
