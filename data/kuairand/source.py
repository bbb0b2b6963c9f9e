"""Which KuaiRand files a folder holds: the official CSV layout or the Parquet subset."""

from dataclasses import dataclass
from pathlib import Path

from lfm4ads.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Source:
    """The files of one KuaiRand version."""

    logs: tuple[Path, ...]
    """Exposures with time, tab and every outcome."""
    history: Path | None
    """Earlier exposures known by their order alone; only the Parquet subset has them."""
    users: Path
    items: Path


def find_source(folder: Path) -> Source:
    """Detect the layout from the files in ``folder`` or in its ``data`` subfolder.

    The logs of random exposure and the video statistics are left out: see the README.
    """
    for place in (folder / "data", folder):
        if any(place.glob("log_standard_*.csv")):
            return _official(place)
        if any(place.glob("interactions_*.parquet")):
            return _subset(place)
    raise UserError(
        f"{folder} holds no KuaiRand files (log_standard_*.csv or interactions_*.parquet); "
        "KuaiRand is published at https://kuairand.com: download KuaiRand-Pure or KuaiRand-1K, "
        "unpack it and pass its folder by source=<folder> (or make demo DATA=<folder>)"
    )


def _official(folder: Path) -> Source:
    before = sorted(folder.glob("log_standard_4_08_to_4_21_*.csv"))
    after = sorted(folder.glob("log_standard_4_22_to_5_08_*.csv"))
    for found, name in ((before, "4_08_to_4_21"), (after, "4_22_to_5_08")):
        if not found:
            raise UserError(
                f"{folder} holds no log_standard_{name}_*.csv; copy it from the unpacked download"
            )
    return Source(
        logs=(*before, *after),
        history=None,
        users=_only(folder, "user_features_*.csv"),
        items=_only(folder, "video_features_basic_*.csv"),
    )


def _subset(folder: Path) -> Source:
    return Source(
        logs=tuple(sorted(folder.glob("interactions_*.parquet"))),
        history=_only(folder, "history_*.parquet"),
        users=_only(folder, "users.parquet"),
        items=_only(folder, "items.parquet"),
    )


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found) or "none"
    raise UserError(
        f"{folder} must hold exactly one {pattern} but has {names}; "
        "pass the folder of one unpacked KuaiRand version"
    )
