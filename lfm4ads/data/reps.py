"""Snapshots of representations on disk: written whole by all ranks, opened by version and day.

A snapshot is built in a hidden folder beside its final place. When every rank has written its
parts, rank 0 writes the manifest and renames the folder, so a reader sees all of it or none; what a
killed run left is swept by the next.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import sha256
from lfm4ads.core.ranks import Ranks
from lfm4ads.data import owner as owners
from lfm4ads.data.manifest import (
    MANIFEST,
    Header,
    Manifest,
    PartFile,
    RepSide,
    available_days,
    available_versions,
    building_folder,
    load_manifest,
    part_files,
    save_manifest,
    snapshot_folder,
)
from lfm4ads.data.moments import add_states, empty_sums
from lfm4ads.data.part import merged_chunks, part_schema, split_chunks, to_table, write_table_stream
from lfm4ads.data.side import SideStates
from lfm4ads.data.snapshot import Snapshot


def write_snapshot(
    ranks: Ranks,
    root: Path,
    *,
    header: Header,
    states: Mapping[RepSide, SideStates],
    previous: Snapshot | None = None,
    overwrite: bool = False,
) -> Snapshot:
    """Write the day's states, merged into ``previous``, as a new snapshot. Collective.

    Args:
        ranks: The job's processes; each writes the part of the keys it owns.
        root: The reps folder.
        header: What the snapshot is.
        states: Per side the routed partial states (``route_side``) of the days after ``previous``.
        previous: The snapshot that holds the days before; its rows are streamed, so memory is
            bounded by ``states``.
        overwrite: Replace a finished snapshot of the same version and day instead of refusing.
    """
    parts: list[PartFile] = []
    with ranks.together():
        _refuse_finished(root, header, overwrite=overwrite)
        if previous is not None:
            check_continues(previous, header)
    with ranks.together():
        parts += [
            write_part(
                root,
                header=header,
                side=side,
                rank=ranks.rank,
                world=ranks.world,
                states=states[side],
                previous=previous,
            )
            for side in header.sides
        ]
    return write_manifest(ranks, root, header=header, parts=parts, overwrite=overwrite)


def write_part(
    root: Path,
    *,
    header: Header,
    side: RepSide,
    rank: int,
    world: int,
    states: SideStates,
    previous: Snapshot | None = None,
) -> PartFile:
    """Write the part of one side and rank: ``states`` merged into what ``previous`` has."""
    keys = states.keys
    if (owners.owner(keys, world=world) != rank).any():
        raise ValueError(f"rank {rank} of {world} has keys it does not own; route_side comes first")
    old = () if previous is None else previous.owned(side, rank=rank, world=world)
    chunks = merged_chunks(old, states, header.specs(side))
    return _write_chunks(root, chunks, header=header, side=side, rank=rank)


def _write_chunks(
    root: Path, chunks: Iterable[SideStates], *, header: Header, side: RepSide, rank: int
) -> PartFile:
    specs = header.specs(side)
    part = PartFile(side=side, owner=rank, rows=0, num_bytes=0, sha256="", sums=empty_sums(specs))
    path = building_folder(root, version=header.upstream, as_of=header.as_of) / part.path

    def tables() -> Iterator[pa.Table]:
        for chunk in split_chunks(chunks):
            add_states(part.sums, chunk, specs)
            yield to_table(chunk, specs)

    rows = write_table_stream(path, tables(), schema=part_schema(specs))
    return replace(part, rows=rows, num_bytes=path.stat().st_size, sha256=sha256(path))


def write_changed(
    ranks: Ranks,
    root: Path,
    *,
    header: Header,
    old: Snapshot,
    change: Callable[[RepSide, SideStates], SideStates],
    overwrite: bool = False,
) -> Snapshot:
    """Write ``old``, each chunk of it changed, as a snapshot of another version. Collective."""
    parts: list[PartFile] = []
    with ranks.together():
        _refuse_finished(root, header, overwrite=overwrite)
        for side in header.sides:
            chunks = old.owned(side, rank=ranks.rank, world=ranks.world)
            changed = (change(side, chunk) for chunk in chunks)
            parts.append(_write_chunks(root, changed, header=header, side=side, rank=ranks.rank))
    return write_manifest(ranks, root, header=header, parts=parts, overwrite=overwrite)


def write_manifest(
    ranks: Ranks, root: Path, *, header: Header, parts: Sequence[PartFile], overwrite: bool = False
) -> Snapshot:
    """Gather all ranks' parts, write the manifest and put the snapshot into place. Collective.

    Args:
        ranks: The job's processes.
        root: The reps folder.
        header: As given to ``write_part``.
        parts: What this rank wrote.
        overwrite: Replace a finished snapshot of the same version and day instead of refusing.
    """
    texts = ranks.texts(json.dumps([asdict(part) for part in parts]))
    files = part_files(entry for text in texts for entry in json.loads(text))
    manifest = Manifest(header=header, world=ranks.world, files=tuple(files))
    final = snapshot_folder(root, version=header.upstream, as_of=header.as_of)
    with ranks.together():
        if ranks.is_first:
            _refuse_finished(root, header, overwrite=overwrite)
            building = building_folder(root, version=header.upstream, as_of=header.as_of)
            _sweep(building, manifest)
            save_manifest(building / MANIFEST, manifest)
            replace_folder(building, final)
    return Snapshot(folder=final, manifest=manifest)


def _refuse_finished(root: Path, header: Header, *, overwrite: bool) -> None:
    final = snapshot_folder(root, version=header.upstream, as_of=header.as_of)
    if not overwrite and (final / MANIFEST).exists():
        raise UserError(
            f"{final} already holds a finished snapshot; choose another folder for reps or pass "
            "overwrite=true"
        )


def _sweep(building: Path, manifest: Manifest) -> None:
    """Remove what an earlier, killed run left beside the files of this one."""
    kept = {building / file.path for file in manifest.files}
    for path in building.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()


def replace_folder(building: Path, final: Path) -> None:
    """Put a folder in the place of another; a reader sees one of them whole, or none."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    building.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def check_continues(previous: Snapshot, header: Header) -> None:
    """Refuse to add a day to a snapshot of another upstream, other vectors or no earlier day."""
    before = previous.manifest.header
    if before.upstream != header.upstream:
        raise UserError(
            f"{previous.folder} comes from upstream {before.upstream}, not {header.upstream}; "
            "rebuild from the first day, because sums of two upstream models do not add"
        )
    if before.as_of >= header.as_of:
        raise UserError(
            f"{previous.folder} already holds events of {before.as_of}, so day {header.as_of} "
            "cannot be added to it; continue from a snapshot of an earlier day"
        )
    # How a vector is read may change from day to day; what is stored may not.
    stored, wanted = (
        sorted(
            (replace(spec, read="sum") for spec in each.representations), key=lambda spec: spec.name
        )
        for each in (before, header)
    )
    if stored != wanted:
        raise UserError(
            f"{previous.folder} holds representations {[spec.name for spec in stored]}, "
            f"which differ from the asked {[spec.name for spec in wanted]} in name, dim, half-life "
            "or layer; rebuild from the first day"
        )


def open_snapshot(root: Path, *, version: str, as_of: int, verify: bool = False) -> Snapshot:
    """Open the snapshot of an upstream version as of a day, or say in one sentence why not.

    Args:
        root: The reps folder.
        version: The upstream version the caller works with.
        as_of: YYYYMMDD of the last day whose events are in it.
        verify: Also hash every file; sizes are checked always.
    """
    folder = snapshot_folder(root, version=version, as_of=as_of)
    if not folder.parent.is_dir():
        raise UserError(
            f"{root} holds representations of upstream {available_versions(root)}, not {version}; "
            "rerun dump with that upstream or point reps to its folder"
        )
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"{folder} has no {MANIFEST}, so its dump did not finish (finished days: "
            f"{available_days(root, version)}); rerun dump for that day"
        )
    manifest = load_manifest(folder / MANIFEST)
    header = manifest.header
    if header.upstream != version:
        raise UserError(
            f"{folder / MANIFEST} is of upstream {header.upstream}, not {version}; rerun dump "
            "with that upstream or point reps to its folder"
        )
    if header.as_of != as_of:
        raise UserError(
            f"{folder / MANIFEST} is as of {header.as_of}, not {as_of}; rerun dump for that day"
        )
    for file in manifest.files:
        _check_file(folder / file.path, file, verify=verify)
    return Snapshot(folder=folder, manifest=manifest)


def _check_file(path: Path, file: PartFile, *, verify: bool) -> None:
    if not path.is_file():
        raise UserError(f"{path} is in the manifest but not on disk; rerun dump for that day")
    size = path.stat().st_size
    if size != file.num_bytes:
        raise UserError(
            f"{path} has {size} bytes, its manifest says {file.num_bytes}; rerun dump for that day"
        )
    if verify and sha256(path) != file.sha256:
        raise UserError(
            f"{path} does not match its checksum in the manifest; rerun dump for that day"
        )


def snapshot_before(root: Path, *, version: str, day: int) -> Snapshot:
    """Open the latest snapshot before ``day`` (YYYYMMDD), the newest that its samples may see."""
    days = available_days(root, version)
    earlier = [as_of for as_of in days if as_of < day]
    if not earlier:
        raise UserError(
            f"{root} has no snapshot of upstream {version} before {day} (it has days {days} of "
            f"that version, and versions {available_versions(root)}); run dump for an earlier day"
        )
    return open_snapshot(root, version=version, as_of=earlier[-1])
