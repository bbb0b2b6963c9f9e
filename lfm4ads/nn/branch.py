"""One domain's layers of the mix tower: experts' MLPs and merges, level by level, and the top.

Dimension key: B rows, H width of an expert's output, S streams, M experts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lfm4ads.nn.access import Level
from lfm4ads.nn.chain import Chain
from lfm4ads.nn.experts import ExpertConfig, Merge, MergeConfig
from lfm4ads.nn.mlp import Mlp, run_together


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Experts, their merge, and the layers after it."""

    experts: dict[str, ExpertConfig] = field(default_factory=dict)
    """Empty: one DCNv2, named cross."""
    layers: int = 1
    """Levels of experts (PLE, STEM): those after the first are MLPs on what the first merged."""
    merge: MergeConfig = field(default_factory=MergeConfig)
    chain: tuple[str, ...] = ()
    """Tasks in the order in which each hands on what it merged to the next (AITM)."""
    hidden: tuple[int, ...] = (64,)
    """Layers after the merge, one stack a domain; CR is usually read from the last, the
    penultimate of the model."""

    def __post_init__(self) -> None:
        if not self.hidden:
            raise ValueError("mix.hidden needs at least one layer")
        outputs = {name: one.hidden[-1] for name, one in self.experts.items()}
        if len(set(outputs.values())) > 1:
            raise ValueError(f"experts are merged, so their last layers must be equal: {outputs}")
        if self.layers < 1:
            raise ValueError(f"mix.layers must be at least 1, got {self.layers}")
        if self.chain and not self.merge.per_task:
            raise ValueError("mix.chain is over tasks; set merge.per_task=true")
        if len(self.chain) == 1 or len(set(self.chain)) < len(self.chain):
            raise ValueError(f"mix.chain needs two tasks or more, each once, got {self.chain}")

    @property
    def all_experts(self) -> dict[str, ExpertConfig]:
        """The experts by name."""
        return self.experts or {"cross": ExpertConfig()}

    @property
    def merged_width(self) -> int:
        """Width of an expert's output, and so of their merge."""
        return next(iter(self.all_experts.values())).hidden[-1]


@dataclass
class Mixed:
    """What the mix tower gives."""

    layers: dict[str, Tensor]
    """Every layer (B, .) by name, in order; of the row's own branch, before its activation."""
    top: Tensor
    """The last layer: (B, H), or (B, S, H) with a stream a task."""
    weights: Tensor
    """How experts were weighted (B, S, M), at the last level."""


class _Deeper(nn.Module):
    """A level after the first: an MLP an expert on what the level before merged."""

    def __init__(self, config: MixConfig, level: Level, *, dropout: float, spectral: float) -> None:
        super().__init__()
        width, experts = config.merged_width, config.all_experts
        self.experts = nn.ModuleDict(
            {
                name: Mlp(width, one.hidden, dropout=dropout, spectral=spectral)
                for name, one in experts.items()
            }
        )
        widths = [width] * len(experts)
        self.merge = Merge(level.access, config=config.merge, gate_widths=widths)


class Branch(nn.Module):
    """One domain's layers."""

    def __init__(
        self,
        config: MixConfig,
        levels: Sequence[Level],
        *,
        outputs: Mapping[str, int],
        gate_widths: Sequence[int],
        dropout: float,
        spectral: float,
    ) -> None:
        """``outputs``: widths of the interactions; ``gate_widths``: of each expert's fields."""
        super().__init__()
        self.experts = nn.ModuleDict(
            {
                name: Mlp(outputs[name], one.hidden, dropout=dropout, spectral=spectral)
                for name, one in config.all_experts.items()
            }
        )
        self.merge = Merge(levels[0].access, config=config.merge, gate_widths=gate_widths)
        self.deeper = nn.ModuleList(
            _Deeper(config, level, dropout=dropout, spectral=spectral) for level in levels[1:]
        )
        self._levels = list(levels)
        width, streams = config.merged_width, levels[-1].streams
        self.chain = Chain(width, streams=streams, order=config.chain) if config.chain else None
        self.tops = nn.ModuleList(
            Mlp(width, config.hidden, dropout=dropout, spectral=spectral) for _ in streams
        )
        self._streams = list(streams)
        self._dropout = dropout

    def forward(self, crossed: Mapping[str, Tensor], fields: Sequence[Tensor]) -> Mixed:
        """Return the layers of rows whose interactions and experts' fields (B, .) are given."""
        layers: dict[str, Tensor] = {}
        inputs = list(crossed.values())
        z_BSH, weight_BSM = self._level(0, inputs, fields, layers=layers)
        for at, level in enumerate(self._levels[1:], 1):
            inputs = [z_BSH[:, feed] for feed in level.feeds]
            z_BSH, weight_BSM = self._level(at, inputs, inputs, layers=layers)
        if self.chain is not None:
            z_BSH, _ = self.chain(z_BSH)
        tops: list[Tensor] = []
        for position, (stream, mlp) in enumerate(zip(self._streams, self.tops, strict=True)):
            suffix = _suffix(stream)
            if self.chain is not None:
                layers[f"chained{suffix}"] = z_BSH[:, position]
            hidden = mlp(z_BSH[:, position])
            layers |= {f"top_{at}{suffix}": h_BH for at, h_BH in enumerate(hidden, 1)}
            tops.append(hidden[-1])
        return Mixed(layers, torch.stack(tops, dim=1), weight_BSM)

    def _level(
        self,
        at: int,
        inputs: Sequence[Tensor],
        fields: Sequence[Tensor],
        *,
        layers: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return what a level merges (B, S, H) and its weights (B, S, M); note its layers."""
        level = cast(_Deeper, self.deeper[at - 1]) if at else self
        prefix = _prefix(at)
        experts = [cast(Mlp, mlp) for mlp in level.experts.values()]
        gates = level.merge.gates_of(fields)
        mlps = [*experts, *(gate for gate, _ in gates)]
        hidden = run_together(mlps, [*inputs, *(x_BW for _, x_BW in gates)])
        outputs: list[Tensor] = []
        for name, expert in zip(level.experts, hidden, strict=False):
            layers |= {f"{prefix}{name}_mlp_{n}": h_BH for n, h_BH in enumerate(expert, 1)}
            outputs.append(F.relu(expert[-1]))
        logits = [gate[-1] for gate in hidden[len(experts) :]]
        z_BSH, weight_BSM = level.merge(torch.stack(outputs, dim=1), logits)
        z_BSH = F.dropout(z_BSH, self._dropout, training=self.training)
        for position, stream in enumerate(self._levels[at].streams):
            layers[f"{prefix}merged{_suffix(stream)}"] = z_BSH[:, position]
        return z_BSH, weight_BSM


def branch_layers(config: MixConfig, levels: Sequence[Level]) -> dict[str, tuple[int, list[str]]]:
    """Return every layer of a branch, in order: its width, and the modules that make it."""
    found: dict[str, tuple[int, list[str]]] = {}
    width = config.merged_width
    for at, level in enumerate(levels):
        prefix, module = _prefix(at), f"deeper.{at - 1}." if at else ""
        for name, one in config.all_experts.items():
            for n, hidden in enumerate(one.hidden):
                parts = _mlp_parts(f"{module}experts.{name}", n)
                found[f"{prefix}{name}_mlp_{n + 1}"] = hidden, parts
        for stream in level.streams:
            found[f"{prefix}merged{_suffix(stream)}"] = width, [f"{module}merge"]
    for position, stream in enumerate(levels[-1].streams):
        if config.chain:
            found[f"chained{_suffix(stream)}"] = width, ["chain"]
        for n, hidden in enumerate(config.hidden):
            parts = _mlp_parts(f"tops.{position}", n)
            found[f"top_{n + 1}{_suffix(stream)}"] = hidden, parts
    return found


def _prefix(at: int) -> str:
    return f"level_{at + 1}_" if at else ""


def _suffix(stream: str) -> str:
    return f"_{stream}" if stream else ""


def _mlp_parts(mlp: str, at: int) -> list[str]:
    return [f"{mlp}.layers.{at}", f"{mlp}.bounds.{at}"]
