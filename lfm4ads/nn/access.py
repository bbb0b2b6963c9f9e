"""What each task reads and trains among the experts, level by level.

Dimension key: S streams (one, or one a task, and one of the shared experts), M experts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lfm4ads.core.errors import UserError
from lfm4ads.nn.experts import Access, ExpertConfig

SHARED = "shared"
"""Name of what belongs to no task."""

Word = Literal["reads", "trains"]


@dataclass(frozen=True)
class Level:
    """One level of experts and the merges after it."""

    streams: tuple[str, ...]
    access: Access
    feeds: tuple[int, ...] = ()
    """Stream of the level before that each expert reads; of the first level, none."""


def plan_access(
    experts: Mapping[str, ExpertConfig],
    *,
    tasks: Sequence[str],
    streams: Sequence[str],
    reads: Mapping[str, Sequence[str]],
    trains: Mapping[str, Sequence[str]],
) -> Access:
    """Return the matrices; a task not named reads and trains every expert.

    ``streams`` are the tasks that merge for themselves, or one empty name for all. ``reads`` and
    ``trains`` name table sets, each for all experts that read it, or experts.

    What is in ``reads`` but not in ``trains`` is read through a stop-gradient: STEM's all-forward,
    task-specific-backward (arXiv 2308.13537).

    Raises:
        UserError: A name is unknown or says two things, or a task trains nothing.
    """
    for setting, words in (("reads", reads), ("trains", trains)):
        _check_tasks(words, tasks=tasks, setting=f"model.{setting}")
    owners = [one.owner for one in experts.values() if one.owner]
    _check_tasks(owners, tasks=tasks, setting="an expert's owner")
    if (reads or trains or owners) and "" in streams:
        raise UserError(
            "model.reads, model.trains and owners of experts tell tasks apart; set"
            " merge.per_task=true",
            everywhere=True,
        )
    rows_reads, rows_trains = [], []
    for task in streams:
        everything = set(experts)
        seen = _members("reads", task, reads, experts=experts) if task in reads else everything
        trained = _members("trains", task, trains, experts=experts) if task in trains else seen
        if not trained or not trained <= seen:
            raise UserError(
                f"task {task} must train at least one expert, and only experts that it reads",
                everywhere=True,
            )
        rows_reads.append([name in seen for name in experts])
        rows_trains.append([name in trained for name in experts])
    return Access(
        torch.tensor(rows_reads),
        torch.tensor(rows_trains),
        tuple(one.tables for one in experts.values()),
        _owned(experts, streams),
        torch.tensor([not one.owner for one in experts.values()]),
    )


def plan_levels(
    access: Access, experts: Mapping[str, ExpertConfig], *, streams: Sequence[str], layers: int
) -> list[Level]:
    """Return the levels, the last of which gives the streams (PLE, STEM).

    A level between feeds the next: a task's experts get what the task merged, shared ones what all
    experts merged to. That merge trains only experts that no task reads without training them:
    otherwise the loss of one task reaches the tables of another through the next level's shared
    experts, as it does in STEM's public code with two layers.
    """
    last = Level(tuple(streams), access)
    if layers == 1:
        return [last]
    owners = [one.owner for one in experts.values()]
    between = [stream for stream in streams if stream in owners]
    rows = [list(streams).index(stream) for stream in between]
    reads, trains = access.reads[rows], access.trains[rows]
    if any(owner not in streams for owner in owners):
        between.append(SHARED)
        never_stopped = (access.trains | ~access.reads).all(0, keepdim=True)
        reads = torch.cat([reads, torch.ones_like(never_stopped)])
        trains = torch.cat([trains, never_stopped])
    feeds = tuple(between.index(one if one in between else SHARED) for one in owners)
    owned = _owned(experts, between)
    later = tuple(between[feed] for feed in feeds)
    return [
        Level(tuple(between), Access(reads, trains, access.inputs, owned, access.shared)),
        *[Level(tuple(between), Access(reads, trains, later, owned, access.shared), feeds)]
        * (layers - 2),
        Level(
            last.streams,
            Access(access.reads, access.trains, later, _owned(experts, streams), access.shared),
            feeds,
        ),
    ]


def _owned(experts: Mapping[str, ExpertConfig], streams: Iterable[str]) -> Tensor:
    names = ["" if stream == SHARED else stream for stream in streams]
    return torch.tensor([[one.owner == name for one in experts.values()] for name in names])


def _check_tasks(words: Iterable[str], *, tasks: Sequence[str], setting: str) -> None:
    for task in words:
        if task not in tasks:
            raise UserError(
                f"{setting} names task {task}; the tasks are {', '.join(tasks)}", everywhere=True
            )


def _members(
    setting: Word,
    task: str,
    words: Mapping[str, Sequence[str]],
    *,
    experts: Mapping[str, ExpertConfig],
) -> set[str]:
    """Return the experts that a task's words stand for."""
    sets = {one.tables for one in experts.values()}
    found: set[str] = set()
    for name in words.get(task, ()):
        readers = {expert for expert, one in experts.items() if one.tables == name}
        if name not in sets and name not in experts:
            raise UserError(
                f"model.{setting}.{task} names {name}, which is no table set that an expert reads,"
                f" and no expert; there are {', '.join(dict.fromkeys([*sorted(sets), *experts]))}",
                everywhere=True,
            )
        if name in sets and name in experts and readers != {name}:
            raise UserError(
                f"model.{setting}.{task} names {name}, which is a table set and an expert that is"
                " not its only reader; rename the expert",
                everywhere=True,
            )
        found |= readers or {name}
    return found
