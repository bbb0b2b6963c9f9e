"""Checkpoints on torch.distributed.checkpoint (DCP) that are complete or invisible.

A checkpoint folder holds DCP's files, ``meta.json`` (what the loop needs to go on) and
``manifest.json`` (size and SHA-256 of every file), written last. It is built under a temporary
name and renamed.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json, sha256, write_json
from lfm4ads.core.ranks import Ranks


def save_checkpoint(
    folder: Path, state: dict[str, Any], *, meta: dict[str, Any], ranks: Ranks
) -> None:
    """Write ``state`` (nested dicts of tensors, sharded or not) and ``meta``.

    A former ``folder`` is replaced at the end.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    with ranks.together():
        if ranks.is_first:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
    try:
        save_tensors(state, checkpoint_id=temporary, process_group=ranks.group)
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        raise UserError(
            f"{folder}: the checkpoint could not be written ({first}); free disk space",
            everywhere=True,
        ) from error
    mine: dict[str, Any] = {}
    with ranks.together():
        mine = _entries(temporary, f"__{ranks.rank}_*.distcp")
    files = {
        name: entry
        for text in ranks.texts(json.dumps(mine))
        for name, entry in json.loads(text).items()
    }
    with ranks.together():
        if ranks.is_first:
            write_json(temporary / "meta.json", meta)
            files |= _entries(temporary, ".metadata") | _entries(temporary, "meta.json")
            write_json(
                temporary / "manifest.json",
                {"schema_version": 1, "world": ranks.world, "files": files},
            )
            _replace(temporary, folder)


def _entries(folder: Path, pattern: str) -> dict[str, Any]:
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.glob(pattern))
    }


def _replace(temporary: Path, folder: Path) -> None:
    """Put ``temporary`` in the place of ``folder``; ``complete_checkpoints`` always sees one."""
    former = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(former, ignore_errors=True)
        folder.rename(former)
    temporary.rename(folder)
    shutil.rmtree(former, ignore_errors=True)


def check_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the meta of a complete checkpoint, or say what is wrong with it."""
    manifest = read_json(folder / "manifest.json")
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            raise UserError(
                f"{path} is missing or torn; remove {folder} and rerun, or restore it from a copy"
            )
    return read_json(folder / "meta.json")


def load_checkpoint(folder: Path, state: dict[str, Any], *, ranks: Ranks) -> dict[str, Any]:
    """Read a checkpoint into the tensors of ``state`` and return its meta.

    Any number of ranks may have written it.

    Raises:
        UserError: the checkpoint is incomplete, or lacks a tensor of ``state`` or holds it in
            another shape.
    """
    meta: dict[str, Any] = {}
    with ranks.together():
        meta = check_checkpoint(folder)
    try:
        load_tensors(state, checkpoint_id=folder, process_group=ranks.group)
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        raise UserError(
            f"{folder} does not fit the model ({' '.join(str(first).split())[:300]});"
            " use the config that wrote it",
            everywhere=True,
        ) from error
    return meta


def tensor_shapes(folder: Path, *, part: str = "model") -> dict[str, list[int]]:
    """Return the shape of every tensor of a part of a checkpoint, by its name there."""
    check_checkpoint(folder)
    entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    return {
        name.removeprefix(f"{part}."): list(entry.size)
        for name, entry in entries.items()
        if name.startswith(f"{part}.") and isinstance(entry, TensorStorageMetadata)
    }


def complete_checkpoints(root: Path) -> list[Path]:
    """Return the checkpoint folders under ``root`` that are complete, by name.

    A former one whose successor was killed between the two renames is among them.
    """
    found = []
    for folder in sorted(root.glob("*")):
        successor = folder.with_name(folder.name.removeprefix(".").removesuffix(".old"))
        former = folder.name.endswith(".old") and not successor.exists()
        hidden = folder.name.startswith(".") and not former
        if hidden or not (folder / "manifest.json").is_file():
            continue
        check_checkpoint(folder)
        found.append(folder)
    return found
