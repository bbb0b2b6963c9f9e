"""Experts and how tasks merge them.

An expert is (table set, interaction, MLP). One code path for a single network, multi-embedding
(several sets, merged by mean), heterogeneous mixture of experts (gate), AME (sets of unequal
width), MMoE, PLE and STEM (a set per task plus a shared one): what a task reads, and what its loss
may train, are two boolean matrices over tasks and experts (``nn/access.py``).

Dimension key: B rows, H width of an expert's output, M experts, S streams (one, or one a task).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

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
    owner: str = ""
    """Task it belongs to; empty: shared. Says who feeds it where there are several levels, and
    whose it is for gates and their diagnostics; who reads it is said by reads."""

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
    gate_input: Literal["trained", "own", "sum"] = "trained"
    """What a gate is computed from: the inputs of all experts that its task trains, side by side;
    those of its own experts (where it has none, of all it trains); or the sum of its own and the
    shared ones' (x_t + x_S in STEM's code)."""
    one_gate: bool = False
    """All tasks share one gate (OMoE)."""

    def __post_init__(self) -> None:
        others = (self.gate_hidden, self.gate_input, self.one_gate)
        if self.kind != "gate" and others != ((), "trained", False):
            raise ValueError(
                "merge.gate_hidden, gate_input and one_gate are read by kind gate alone, kind is"
                f" {self.kind}"
            )
        if self.one_gate and not self.per_task:
            raise ValueError("merge.one_gate is one gate of several tasks; set merge.per_task=true")


@dataclass(frozen=True)
class Access:
    """Which streams read which experts, and which they may train; both (S, M) bool."""

    reads: Tensor
    trains: Tensor
    inputs: tuple[str, ...] = ()
    """Name of each expert's input: a gate sees an input that several experts share once; empty:
    no two share one."""
    owned: Tensor | None = None
    """(S, M) bool: an expert belongs to the stream; None: no expert belongs to one."""
    shared: Tensor | None = None
    """(M,) bool: an expert belongs to no task; None: all."""


class Merge(nn.Module):
    """z_s = sum_m g_{s,m} h_m over the experts that stream s reads."""

    _reads: Tensor

    def __init__(self, access: Access, *, config: MergeConfig, gate_widths: Sequence[int]) -> None:
        """``gate_widths``: width of each expert's input.

        Raises:
            UserError: Gates add inputs of unequal widths, or share a gate and see unequal experts.
        """
        super().__init__()
        self.register_buffer("_reads", access.reads, persistent=False)
        self._trains = access.trains.tolist()
        self._sees = _sees(access, config=config).tolist()
        self._stopped = not bool(access.trains[access.reads].all())
        self._kind = config.kind
        self._sums = config.gate_input == "sum"
        streams, experts = access.reads.shape
        match config.kind:
            case "mean":
                pass
            case "learned":
                share = access.reads / access.reads.sum(1, keepdim=True)
                self.weight = nn.Parameter(share.float())
            case "gate":
                _check_gates(access, self._sees, config=config, widths=gate_widths)
                self.gates = nn.ModuleList(
                    Mlp(
                        _gate_width(gate_widths, row, sums=self._sums),
                        (*config.gate_hidden, experts),
                    )
                    for row in (self._sees[:1] if config.one_gate else self._sees)
                )
        self.streams = streams

    def gates_of(self, fields: Sequence[Tensor]) -> list[tuple[Mlp, Tensor]]:
        """Return the gates and their inputs (B, .), from each expert's input, or none.

        A gate sees only inputs of experts that its task trains, so that it opens no way around the
        stop-gradient.
        """
        if self._kind != "gate":
            return []
        return [
            (cast(Mlp, gate), self._input(fields, row))
            for gate, row in zip(self.gates, self._sees, strict=False)
        ]

    def forward(self, h_BMH: Tensor, gates: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the merged vectors (B, S, H) and the weights (B, S, M).

        Args:
            h_BMH: Outputs of the experts, after their activation.
            gates: Logits (B, M) of each of ``gates_of``.
        """
        weight_BSM = self._weights(h_BMH, gates)
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

    def _weights(self, h_BMH: Tensor, gates: Sequence[Tensor]) -> Tensor:
        reads_SM = self._reads
        match self._kind:
            case "mean":
                weight_SM = reads_SM / reads_SM.sum(1, keepdim=True)
                return weight_SM.expand(len(h_BMH), -1, -1)
            case "learned":
                return (self.weight * reads_SM).expand(len(h_BMH), -1, -1)
            case _:
                logit_BSM = torch.stack(list(gates), dim=1).expand(-1, len(reads_SM), -1)
                return F.softmax(logit_BSM.masked_fill(~reads_SM, -torch.inf), dim=2)

    def _input(self, fields: Sequence[Tensor], row: Sequence[bool]) -> Tensor:
        """Return what one gate is computed from (B, .)."""
        seen = [x_BW for x_BW, used in zip(fields, row, strict=True) if used]
        if len(seen) == 1:
            return seen[0]
        return torch.stack(seen).sum(0) if self._sums else torch.cat(seen, dim=1)


def _sees(access: Access, *, config: MergeConfig) -> Tensor:
    """Return whose inputs each stream's gate is computed from (S, M), every input once."""
    sees = access.trains
    if config.gate_input != "trained" and access.owned is not None and access.shared is not None:
        near = access.owned if config.gate_input == "own" else access.owned | access.shared
        near = near & access.trains
        sees = torch.where(near.any(1, keepdim=True), near, sees)
    again = torch.zeros_like(sees)
    for stream, row in enumerate(sees.tolist()):
        used = [name if seen else None for name, seen in zip(access.inputs, row, strict=False)]
        for place, name in enumerate(used):
            again[stream, place] = name in used[:place]
    return sees & ~again


def _gate_width(widths: Sequence[int], row: Sequence[bool], *, sums: bool) -> int:
    seen = [width for width, used in zip(widths, row, strict=True) if used]
    return seen[0] if sums else sum(seen)


def _check_gates(
    access: Access,
    sees: Sequence[Sequence[bool]],
    *,
    config: MergeConfig,
    widths: Sequence[int],
) -> None:
    for row in sees:
        seen = {width for width, used in zip(widths, row, strict=True) if used}
        if config.gate_input == "sum" and len(seen) > 1:
            raise UserError(
                f"merge.gate_input=sum adds inputs of {' and '.join(map(str, sorted(seen)))}"
                " columns; give the table sets one dim, or choose trained or own",
                everywhere=True,
            )
    same = bool((access.reads == access.reads[:1]).all()) and all(row == sees[0] for row in sees)
    if config.one_gate and not same:
        raise UserError(
            "merge.one_gate is one gate for all tasks, which here read or train other experts;"
            " let all read the same",
            everywhere=True,
        )
