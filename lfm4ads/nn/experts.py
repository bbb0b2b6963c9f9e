"""Experts and how tasks merge them.

An expert is (table set, interaction, MLP). One code path for a single network, multi-embedding
(several sets, merged by mean), heterogeneous mixture of experts (gate), AME (sets of unequal width)
and STEM (a set per task plus a shared one): what a task reads, and what its loss may train, are two
boolean matrices over tasks and sets.

Dimension key: B rows, H width of an expert's output, M experts, S streams (one, or one a task).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lfm4ads.core.errors import UserError
from lfm4ads.nn.interactions.config import InteractionConfig
from lfm4ads.nn.mlp import Mlp


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """One expert."""

    tables: str = "main"
    """The table set it reads, and the only one its loss reaches."""
    interaction: InteractionConfig = field(default_factory=InteractionConfig)
    hidden: tuple[int, ...] = (128,)
    """Its MLP, one a domain. Never empty: without a non-linearity between interaction and merge,
    several sets equal one set of their summed width (arXiv 2310.04400, appendix)."""

    def __post_init__(self) -> None:
        if not self.hidden:
            raise ValueError("an expert needs at least one hidden layer before experts are merged")


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """How experts become one vector."""

    kind: Literal["mean", "learned", "gate"] = "mean"
    """mean; learned: one weight an expert; gate: a softmax computed from the fields of each row."""
    per_task: bool = False
    """Every task merges for itself and has its own layers after it."""
    gate_hidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.gate_hidden and self.kind != "gate":
            raise ValueError(f"merge.gate_hidden is read by kind gate alone, kind is {self.kind}")


@dataclass(frozen=True)
class Access:
    """Which streams read which experts, and which they may train; both (S, M) bool."""

    reads: Tensor
    trains: Tensor
    first: Tensor | None = None
    """(M,) bool: an expert is the first of its table set, whose fields a gate sees once."""


def plan_access(
    experts: Mapping[str, ExpertConfig],
    *,
    tasks: Sequence[str],
    streams: Sequence[str],
    reads: Mapping[str, Sequence[str]],
    trains: Mapping[str, Sequence[str]],
) -> Access:
    """Return the matrices; a task not named reads and trains every set.

    ``streams`` are the tasks that merge for themselves, or one empty name for all.

    A set in ``reads`` but not in ``trains`` is read through a stop-gradient: STEM's all-forward,
    task-specific-backward (arXiv 2308.13537).
    """
    sets = {one.tables for one in experts.values()}
    for setting, words in (("reads", reads), ("trains", trains)):
        for task, names in words.items():
            if task not in tasks:
                raise UserError(
                    f"model.{setting} names task {task}; the tasks are {', '.join(tasks)}",
                    everywhere=True,
                )
            for name in sorted(set(names) - sets):
                raise UserError(
                    f"model.{setting}.{task} names {name}, which no expert reads; the sets are"
                    f" {', '.join(sorted(sets))}",
                    everywhere=True,
                )
    if (reads or trains) and "" in streams:
        raise UserError(
            "model.reads and model.trains tell tasks apart; set merge.per_task=true",
            everywhere=True,
        )
    rows_reads, rows_trains = [], []
    for task in streams:
        seen = set(reads.get(task, sets))
        trained = set(trains.get(task, seen))
        if not trained or not trained <= seen:
            raise UserError(
                f"task {task} must train at least one table set, and only sets that it reads",
                everywhere=True,
            )
        rows_reads.append([one.tables in seen for one in experts.values()])
        rows_trains.append([one.tables in trained for one in experts.values()])
    tables = [one.tables for one in experts.values()]
    first = torch.tensor([name not in tables[:place] for place, name in enumerate(tables)])
    return Access(torch.tensor(rows_reads), torch.tensor(rows_trains), first)


class Merge(nn.Module):
    """z_s = sum_m g_{s,m} h_m over the experts that stream s reads."""

    _reads: Tensor

    def __init__(
        self,
        access: Access,
        *,
        config: MergeConfig,
        gate_widths: Sequence[int],
    ) -> None:
        """``gate_widths``: width of the fields of each expert's table set."""
        super().__init__()
        self.register_buffer("_reads", access.reads, persistent=False)
        self._trains = access.trains.tolist()
        sees = access.trains if access.first is None else access.trains & access.first
        self._sees = sees.tolist()
        self._stopped = not bool(access.trains[access.reads].all())
        self._kind = config.kind
        streams, experts = access.reads.shape
        match config.kind:
            case "mean":
                pass
            case "learned":
                share = access.reads / access.reads.sum(1, keepdim=True)
                self.weight = nn.Parameter(share.float())
            case "gate":
                self.gates = nn.ModuleList(
                    Mlp(
                        sum(w for w, seen in zip(gate_widths, row, strict=True) if seen),
                        (*config.gate_hidden, experts),
                    )
                    for row in self._sees
                )
        self.streams = streams

    def forward(self, h_BMH: Tensor, fields: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the merged vectors (B, S, H) and the weights (B, S, M).

        Args:
            h_BMH: Outputs of the experts, after their activation.
            fields: Each expert's fields, from which gates are computed; a gate sees only sets that
                its task trains, so that it opens no way around the stop-gradient.
        """
        weight_BSM = self._weights(h_BMH, fields)
        if not self._stopped:
            return torch.einsum("bsm,bmh->bsh", weight_BSM, h_BMH), weight_BSM
        # The expert's tensor is detached, never its product with the gate: the gate must learn.
        still_BMH = h_BMH.detach()
        merged: list[Tensor] = []
        for stream, row in enumerate(self._trains):
            trains_M = torch.tensor(row, device=h_BMH.device)
            own_BMH = torch.where(trains_M[:, None], h_BMH, still_BMH)
            merged.append(torch.einsum("bm,bmh->bh", weight_BSM[:, stream], own_BMH))
        return torch.stack(merged, dim=1), weight_BSM

    def _weights(self, h_BMH: Tensor, fields: Sequence[Tensor]) -> Tensor:
        reads_SM = self._reads
        match self._kind:
            case "mean":
                weight_SM = reads_SM / reads_SM.sum(1, keepdim=True)
                return weight_SM.expand(len(h_BMH), -1, -1)
            case "learned":
                return (self.weight * reads_SM).expand(len(h_BMH), -1, -1)
            case _:
                logits = [
                    gate(torch.cat([x for x, used in zip(fields, row, strict=True) if used], 1))[-1]
                    for gate, row in zip(self.gates, self._sees, strict=True)
                ]
                logit_BSM = torch.stack(logits, dim=1).masked_fill(~reads_SM, -torch.inf)
                return F.softmax(logit_BSM, dim=2)
