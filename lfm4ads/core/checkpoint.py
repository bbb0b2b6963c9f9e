"""Checkpoints on torch.distributed.checkpoint (DCP) that are complete or invisible.

A checkpoint folder holds DCP's files, ``meta.json`` (what the loop needs to go on), JSON files of
the caller's, and the seal (``core/seal.py``), written last. It is built under a temporary name,
put on the disk and renamed.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json, write_json
from lfm4ads.core.ranks import Ranks
from lfm4ads.core.seal import (
    SEAL,
    check_file,
    digest_files,
    merge_entries,
    read_seal,
    sync_folder,
    verify_seal,
    write_seal,
)

META = "meta.json"


def save_checkpoint(
    folder: Path,
    state: dict[str, Any],
    *,
    meta: dict[str, Any],
    ranks: Ranks,
    notes: Mapping[str, Any] | None = None,
    former: str = "",
) -> None:
    """Write ``state`` (nested dicts of tensors, sharded or not) and ``meta``. Collective.

    Args:
        folder: Where to; a former one is replaced at the end.
        state: What is loaded again by the same names.
        meta: What the loop needs to go on.
        ranks: The job, with a group that no other thread uses meanwhile.
        notes: More JSON files, by name.
        former: Name beside ``folder`` under which a former one is kept; empty: it is removed.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    with ranks.together():
        if ranks.is_first:
            remove_checkpoint(temporary)
            temporary.mkdir(parents=True)
    try:
        save_tensors(state, checkpoint_id=temporary, process_group=ranks.group)
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        raise UserError(
            f"{folder}: the checkpoint could not be written ({first}); free disk space",
            everywhere=True,
        ) from error
    mine = {}
    with ranks.together():
        mine = digest_files(temporary.glob(f"__{ranks.rank}_*.distcp"))
    files = merge_entries(mine, ranks)
    with ranks.together():
        if ranks.is_first:
            own = {META: meta, **(notes or {})}
            for name, value in own.items():
                write_json(temporary / name, value)
            files |= digest_files(temporary / name for name in (".metadata", *own))
            write_seal(temporary, files, world=ranks.world)
            _replace(temporary, folder, former=former)


def remove_checkpoint(folder: Path) -> None:
    """Remove a folder, its seal first: what a kill leaves of it is no checkpoint."""
    (folder / SEAL).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _replace(temporary: Path, folder: Path, *, former: str) -> None:
    """Put ``temporary`` in the place of ``folder``; at any moment one of them is complete."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        remove_checkpoint(old)
        kept = folder.with_name(former) if former else old
        if kept.exists():
            kept.rename(old)
        folder.rename(kept)
    temporary.rename(folder)
    sync_folder(folder.parent)
    remove_checkpoint(old)


def check_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the meta of a complete checkpoint, or say what is wrong with it.

    Sizes of all files and the bytes of the meta are looked at; ``load_checkpoint`` looks at all.
    """
    files = read_seal(folder)
    if META not in files:
        raise UserError(
            f"{folder} is sealed without {META}; remove it and rerun, or restore it from a copy"
        )
    check_file(folder / META, files[META])
    return read_json(folder / META)


def load_checkpoint(folder: Path, state: dict[str, Any], *, ranks: Ranks) -> dict[str, Any]:
    """Read a checkpoint into the tensors of ``state`` and return its meta. Collective.

    Any number of ranks may have written it. All of its bytes are verified first, whatever part of
    them is read.

    Raises:
        UserError: the checkpoint is incomplete, or lacks a tensor of ``state`` or holds it in
            another shape.
    """
    verify_seal(folder, ranks)
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
    """Return the shape of every tensor of a part of a checkpoint, by its name there.

    An empty ``part`` stands for all of them.
    """
    files = read_seal(folder)
    check_file(folder / ".metadata", files[".metadata"])
    entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    prefix = f"{part}." if part else ""
    return {
        name.removeprefix(prefix): list(entry.size)
        for name, entry in entries.items()
        if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
    }


def complete_checkpoints(root: Path, *, pattern: str = "*") -> list[Path]:
    """Return the checkpoint folders of a pattern under ``root`` that are complete, by name.

    A former one whose successor was killed between the two renames is among all of them.

    Raises:
        UserError: one of them is torn: a reader that is told to use it must not use another.
    """
    found = []
    for folder in sorted(root.glob(pattern)):
        if is_visible(folder) and (folder / SEAL).is_file():
            check_checkpoint(folder)
            found.append(folder)
    return found


def is_visible(folder: Path) -> bool:
    """Return whether a folder is a checkpoint's own name, or all that is left of one."""
    successor = folder.with_name(folder.name.removeprefix(".").removesuffix(".old"))
    former = folder.name.endswith(".old") and not successor.exists()
    return former or not folder.name.startswith(".")
