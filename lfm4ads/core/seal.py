"""The seal of a checkpoint folder: ``manifest.json`` with size and SHA-256 of every other file.

It is written last. A folder whose seal holds is complete to the last bit; anything else is not a
checkpoint.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json, sha256, write_json
from lfm4ads.core.ranks import Ranks

SEAL = "manifest.json"
_SCHEMA_VERSION = 2
Entries = dict[str, dict[str, Any]]
"""File name -> {"bytes", "sha256"}."""

_seen: set[tuple[str, int, int, str]] = set()
"""Files this process has hashed, as they were: a checkpoint that is loaded tensor by tensor, or by
two days of a dump, is hashed once."""


def digest_files(paths: Iterable[Path]) -> Entries:
    """Return size and SHA-256 of files, by name."""
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(paths)
    }


def write_seal(folder: Path, files: Entries, *, world: int) -> None:
    """Declare a folder complete that ``world`` ranks wrote, and put its names on the disk."""
    value = {"schema_version": _SCHEMA_VERSION, "world": world, "files": files}
    write_json(folder / SEAL, value)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Put the names of a folder's files on the disk; their bytes are the writer's to sync."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_seal(folder: Path) -> Entries:
    """Return what the seal says, after checking that every file is there in its size.

    Raises:
        UserError: the seal is missing or no seal, or a file is missing or of another size.
    """
    seal = read_json(folder / SEAL)
    version = seal.get("schema_version") if isinstance(seal, dict) else None
    if version == 1:
        raise UserError(
            f"{folder} was written by an older version, whose optimiser state depends on the"
            " placement of tables; train again, or read it with that version"
        )
    files = seal.get("files") if version == _SCHEMA_VERSION else None
    if not isinstance(files, dict) or not all(_is_entry(one) for one in files.values()):
        raise UserError(
            f"{folder / SEAL} is no seal of a checkpoint; remove {folder} and rerun, or restore it"
            " from a copy"
        )
    for name, entry in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            raise UserError(
                f"{path} is missing or torn; remove {folder} and rerun, or restore it from a copy"
            )
    return files


def check_file(path: Path, entry: dict[str, Any]) -> None:
    """Refuse a file whose bytes are not those the seal was set on."""
    state = path.stat()
    key = (str(path), state.st_ino, state.st_mtime_ns, entry["sha256"])
    if key in _seen:
        return
    if sha256(path) != entry["sha256"]:
        raise UserError(
            f"{path} does not hold the bytes that were written (another SHA-256); remove"
            f" {path.parent} and rerun, or restore it from a copy"
        )
    _seen.add(key)


def verify_seal(folder: Path, ranks: Ranks) -> None:
    """Check every file's bytes, shared out over the ranks. Collective; all ranks raise or none.

    It reads the folder once more than loading does, each rank 1 / world of it.
    """
    with ranks.together():
        files = read_seal(folder)
        load = [0] * ranks.world
        for name, entry in sorted(files.items(), key=lambda one: (-one[1]["bytes"], one[0])):
            owner = load.index(min(load))
            load[owner] += entry["bytes"]
            if owner == ranks.rank:
                check_file(folder / name, entry)


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    return isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)


def merge_entries(mine: Entries, ranks: Ranks) -> Entries:
    """Return the entries of all ranks. Collective."""
    texts = ranks.texts(json.dumps(mine))
    return {name: entry for text in texts for name, entry in json.loads(text).items()}
