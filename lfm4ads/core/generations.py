"""The checkpoints of a run under one root: which is the newest that can be trusted."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfm4ads.core.checkpoint import check_checkpoint, is_visible, remove_checkpoint
from lfm4ads.core.errors import UserError
from lfm4ads.core.log import log
from lfm4ads.core.ranks import Ranks
from lfm4ads.core.seal import SEAL, verify_seal

Meta = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What lies under a root."""

    whole: dict[str, Meta]
    """Names of checkpoints whose sizes are right, with their metas."""
    broken: dict[str, str]
    """Names of others that once were checkpoints -> what is wrong."""
    unfinished: list[str]
    """Names of those whose writing was cut short: they never were checkpoints."""


def newest_checkpoint(
    root: Path,
    *,
    ranks: Ranks,
    progress: Callable[[Meta], tuple[int, ...]],
    needs: Callable[[Meta], str],
    rolling: Sequence[str],
) -> tuple[Path, Meta] | None:
    """Return the most advanced checkpoint whose every byte is right, with its meta. Collective.

    What is newer and broken is skipped with a sentence, and None means that there never was one.

    Args:
        root: Folder of checkpoints.
        ranks: The job.
        progress: How far a checkpoint is, from its meta.
        needs: Name of another checkpoint that going on from this one takes; empty: none.
        rolling: Names that move on with every save: a broken one is set aside, lest it take the
            place of a good predecessor.

    Raises:
        UserError: there were checkpoints and none of them is whole.
    """
    survey = _shared_survey(root, ranks)
    for name in survey.unfinished:
        log.warning("skipped %s: its writing was cut short", root / name)
    for reason in survey.broken.values():
        log.warning("skipped a checkpoint: %s", reason)
    reasons, broken = dict(survey.broken), dict(survey.broken)
    for name in sorted(survey.whole, key=lambda one: progress(survey.whole[one]), reverse=True):
        meta = survey.whole[name]
        reason = broken[name] = _what_is_wrong(root / name, ranks)
        if not reason and needs(meta):
            reason = _what_is_wrong(root / needs(meta), ranks)
        if not reason:
            _set_aside(root, [one for one in rolling if broken.get(one)], ranks)
            return root / name, meta
        log.warning("skipped %s: %s", root / name, reason)
        reasons[name] = reason
    if reasons:
        raise UserError(
            f"{root} holds no complete checkpoint ({'; '.join(reasons.values())}); restore one from"
            " a copy, or remove the folder to train from the start",
            everywhere=True,
        )
    return None


def keep_newest(root: Path, *, pattern: str, count: int) -> None:
    """Remove all but the last ``count`` checkpoints of a pattern, by name. Not collective."""
    for folder in sorted(root.glob(pattern))[:-count]:
        remove_checkpoint(folder)


def _shared_survey(root: Path, ranks: Ranks) -> Survey:
    """Return rank 0's survey on every rank: file systems may show a folder late."""
    text = ""
    with ranks.together():
        if ranks.is_first:
            _finish_renames(root)
            text = json.dumps(vars(_survey(root)))
    return Survey(**json.loads(ranks.broadcast(text)))


def _finish_renames(root: Path) -> None:
    """Put a former checkpoint back whose successor was killed between the two renames."""
    for folder in sorted(root.glob(".*.old")):
        if is_visible(folder) and (folder / SEAL).is_file():
            folder.rename(folder.with_name(folder.name.removeprefix(".").removesuffix(".old")))


def _survey(root: Path) -> Survey:
    survey = Survey(whole={}, broken={}, unfinished=[])
    for folder in sorted(one for one in root.glob("*") if one.is_dir()):
        if folder.name.startswith("."):
            if folder.name.endswith(".tmp"):
                survey.unfinished.append(folder.name)
            continue
        try:
            survey.whole[folder.name] = check_checkpoint(folder)
        except UserError as error:
            survey.broken[folder.name] = str(error)
    return survey


def _what_is_wrong(folder: Path, ranks: Ranks) -> str:
    """Return why a checkpoint cannot be trusted, or nothing; the same on every rank."""
    try:
        verify_seal(folder, ranks)
    except UserError as error:
        return str(error)
    return ""


def _set_aside(root: Path, names: Sequence[str], ranks: Ranks) -> None:
    with ranks.together():
        if ranks.is_first:
            for name in names:
                aside = root / f".{name}.broken"
                remove_checkpoint(aside)
                (root / name).rename(aside)
