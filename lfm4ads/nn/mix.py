"""The part of the foundation model that sees user and item together.

Dimension key: B rows, U widths of a side's representations over all table sets, P of the pair
fields, W width of one set's fields, H width of an expert's output, S streams, M experts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lfm4ads.core.errors import UserError
from lfm4ads.nn.experts import Access, ExpertConfig, Merge, MergeConfig
from lfm4ads.nn.interactions.build import build_interaction
from lfm4ads.nn.interactions.layout import FieldLayout
from lfm4ads.nn.mlp import Mlp

_USER, _ITEM, _PAIR = range(3)


@dataclass(frozen=True, kw_only=True)
class SetLayout:
    """The fields of one table set: those of UR, those of IR, and those that see both sides."""

    user: tuple[tuple[str, int], ...]
    item: tuple[tuple[str, int], ...]
    pair: tuple[tuple[str, int], ...] = ()
    """(name, width) of each field."""

    @property
    def widths(self) -> tuple[int, int, int]:
        """Summed widths of user, item and pair fields."""
        user, item, pair = (
            sum(dim for _, dim in part) for part in (self.user, self.item, self.pair)
        )
        return user, item, pair

    @property
    def fields(self) -> FieldLayout:
        """All fields side by side; their groups are the sides."""
        parts = [(_USER, self.user), (_ITEM, self.item), (_PAIR, self.pair)]
        flat = [(name, dim, group) for group, part in parts for name, dim in part]
        return FieldLayout(
            names=tuple(name for name, _, _ in flat),
            dims=tuple(dim for _, dim, _ in flat),
            groups=tuple(group for _, _, group in flat),
        )


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Experts, their merge, and the layers after it."""

    experts: dict[str, ExpertConfig] = field(default_factory=dict)
    """Empty: one DCNv2, named cross."""
    merge: MergeConfig = field(default_factory=MergeConfig)
    hidden: tuple[int, ...] = (64,)
    """Layers after the merge, one stack a domain; CR is usually read from the last, the
    penultimate of the model."""

    def __post_init__(self) -> None:
        if not self.hidden:
            raise ValueError("mix.hidden needs at least one layer")
        outputs = {name: one.hidden[-1] for name, one in self.experts.items()}
        if len(set(outputs.values())) > 1:
            raise ValueError(f"experts are merged, so their last layers must be equal: {outputs}")

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
    """How experts were weighted (B, S, M)."""


class _Branch(nn.Module):
    """One domain's layers: an MLP an expert, the merge, an MLP a stream."""

    def __init__(
        self,
        config: MixConfig,
        access: Access,
        *,
        outputs: Mapping[str, int],
        gate_widths: Sequence[int],
        streams: Sequence[str],
        dropout: float,
        spectral: float,
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleDict(
            {
                name: Mlp(outputs[name], one.hidden, dropout=dropout, spectral=spectral)
                for name, one in config.all_experts.items()
            }
        )
        self.merge = Merge(access, config=config.merge, gate_widths=gate_widths)
        width = config.merged_width
        self.tops = nn.ModuleList(
            Mlp(width, config.hidden, dropout=dropout, spectral=spectral) for _ in streams
        )
        self._streams = list(streams)
        self._dropout = dropout

    def forward(self, crossed: Mapping[str, Tensor], fields: Sequence[Tensor]) -> Mixed:
        layers: dict[str, Tensor] = {}
        outputs: list[Tensor] = []
        for name, mlp in self.experts.items():
            hidden = mlp(crossed[name])
            layers |= {f"{name}_mlp_{at}": h_BH for at, h_BH in enumerate(hidden, 1)}
            outputs.append(F.relu(hidden[-1]))
        z_BSH, weight_BSM = self.merge(torch.stack(outputs, dim=1), fields)
        z_BSH = F.dropout(z_BSH, self._dropout, training=self.training)
        tops: list[Tensor] = []
        for position, (stream, mlp) in enumerate(zip(self._streams, self.tops, strict=True)):
            suffix = f"_{stream}" if stream else ""
            layers[f"merged{suffix}"] = z_BSH[:, position]
            hidden = mlp(z_BSH[:, position])
            layers |= {f"top_{at}{suffix}": h_BH for at, h_BH in enumerate(hidden, 1)}
            tops.append(hidden[-1])
        return Mixed(layers, torch.stack(tops, dim=1), weight_BSM)


class MixTower(nn.Module):
    """Interactions shared by all domains, then a branch per domain (arXiv 2508.14948, section 3).

    Its input is made of UR, IR and the pair fields; without the latter, stored UR and IR suffice to
    run it downstream.
    """

    def __init__(
        self,
        layouts: Mapping[str, SetLayout],
        access: Access,
        *,
        config: MixConfig,
        domains: Sequence[str],
        streams: Sequence[str],
        dropout: float,
        spectral: float,
    ) -> None:
        """``streams``: the tasks when the merge is per task, else one empty name."""
        super().__init__()
        self._config = config
        self._streams = list(streams)
        self._layouts = dict(layouts)
        self._sets = {name: one.tables for name, one in config.all_experts.items()}
        for name, table_set in self._sets.items():
            if table_set not in layouts:
                raise UserError(
                    f"expert {name} reads table set {table_set}; model.sets has"
                    f" {', '.join(layouts)}",
                    everywhere=True,
                )
        unread = set(layouts) - set(self._sets.values())
        if unread:
            raise UserError(
                f"no expert reads table set {min(unread)}; give it one or remove the set",
                everywhere=True,
            )
        self.interactions = nn.ModuleDict()
        self._layer_names: dict[str, list[str]] = {}
        dims: dict[str, int] = {"towers": sum(sum(one.widths[:2]) for one in layouts.values())}
        outputs: dict[str, int] = {}
        for name, one in config.all_experts.items():
            block = build_interaction(one.interaction, layouts[one.tables].fields)
            self.interactions[name] = block
            outputs[name] = block.width
            self._layer_names[name] = [f"{name}_{layer}" for layer in block.layer_names]
            dims |= dict(zip(self._layer_names[name], block.layer_dims, strict=True))
        gate_widths = [sum(layouts[one].widths) for one in self._sets.values()]
        self.branches = nn.ModuleDict(
            {
                domain: _Branch(
                    config,
                    access,
                    outputs=outputs,
                    gate_widths=gate_widths,
                    streams=streams,
                    dropout=dropout,
                    spectral=spectral,
                )
                for domain in domains
            }
        )
        self.layer_dims = dims | _branch_dims(config, streams=streams)
        """Width of every layer a cross representation can be read from, input to output."""
        self._domains = list(domains)
        self.width = config.hidden[-1]

    def fields_of_experts(self) -> dict[str, tuple[str, FieldLayout]]:
        """Return the table set and the fields of every expert's interaction."""
        return {name: (one, self._layouts[one].fields) for name, one in self._sets.items()}

    def layer_prefixes(self, domain: str) -> dict[str, tuple[str, ...]]:
        """Return the prefixes of the tensors that make each layer from those before it."""
        prefixes: dict[str, tuple[str, ...]] = {"towers": ()}
        for name, layers in self._layer_names.items():
            own = f"interactions.{name}."
            for at, layer in enumerate(layers):
                # Only a cross network has several layers.
                prefixes[layer] = (own if len(layers) == 1 else f"{own}layers.{at}.",)
        branch = f"branches.{domain}"
        for layer, part in _branch_parts(self._config, streams=self._streams).items():
            prefixes[layer] = tuple(f"{branch}.{one}." for one in part)
        return prefixes

    def forward(
        self, ur_BU: Tensor, ir_BU: Tensor, domain_B: Tensor, pair_BP: Tensor | None = None
    ) -> Mixed:
        """Mix representations (B, U) of all sets side by side; no pair fields count as zeros.

        Rows are routed: a branch computes only its domain's rows, and no gradient of one domain
        reaches another's branch.
        """
        fields = self._fields(ur_BU, ir_BU, pair_BP)
        layers = {"towers": torch.cat([ur_BU, ir_BU], dim=1)}
        crossed: dict[str, Tensor] = {}
        for name, block in self.interactions.items():
            outputs = block(fields[self._sets[name]])
            layers |= dict(zip(self._layer_names[name], outputs, strict=True))
            crossed[name] = outputs[-1]
        seen = [fields[table_set] for table_set in self._sets.values()]
        rows = [torch.nonzero(domain_B == index).squeeze(1) for index in range(len(self._domains))]
        routed = [
            self.branches[domain](
                {name: x_BW[index] for name, x_BW in crossed.items()},
                [x_BW[index] for x_BW in seen],
            )
            for domain, index in zip(self._domains, rows, strict=True)
        ]
        order = torch.argsort(torch.cat(rows))
        for name in routed[0].layers:
            layers[name] = torch.cat([one.layers[name] for one in routed])[order]
        top_BSH = torch.cat([one.top for one in routed])[order]
        weight_BSM = torch.cat([one.weights for one in routed])[order]
        return Mixed(layers, top_BSH[:, 0] if top_BSH.shape[1] == 1 else top_BSH, weight_BSM)

    def _fields(self, ur_BU: Tensor, ir_BU: Tensor, pair_BP: Tensor | None) -> dict[str, Tensor]:
        sizes = [one.widths for one in self._layouts.values()]
        if pair_BP is None:
            pair_BP = ur_BU.new_zeros(len(ur_BU), sum(size[_PAIR] for size in sizes))
        sides = [
            torch.split(x_BW, [size[side] for size in sizes], dim=1)
            for side, x_BW in enumerate((ur_BU, ir_BU, pair_BP))
        ]
        return {
            name: torch.cat(parts, dim=1)
            for name, parts in zip(self._layouts, zip(*sides, strict=True), strict=True)
        }


def _branch_dims(config: MixConfig, *, streams: Sequence[str]) -> dict[str, int]:
    dims: dict[str, int] = {}
    for name, one in config.all_experts.items():
        dims |= {f"{name}_mlp_{at}": width for at, width in enumerate(one.hidden, 1)}
    for stream in streams:
        suffix = f"_{stream}" if stream else ""
        dims[f"merged{suffix}"] = config.merged_width
        dims |= {f"top_{at}{suffix}": width for at, width in enumerate(config.hidden, 1)}
    return dims


def _branch_parts(config: MixConfig, *, streams: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the modules of a branch that make each of its layers, in the order of the layers."""
    parts: dict[str, tuple[str, ...]] = {}
    for name, one in config.all_experts.items():
        for at in range(len(one.hidden)):
            parts[f"{name}_mlp_{at + 1}"] = _mlp_parts(f"experts.{name}", at)
    for position, stream in enumerate(streams):
        suffix = f"_{stream}" if stream else ""
        parts[f"merged{suffix}"] = ("merge",)
        for at in range(len(config.hidden)):
            parts[f"top_{at + 1}{suffix}"] = _mlp_parts(f"tops.{position}", at)
    return parts


def _mlp_parts(mlp: str, at: int) -> tuple[str, ...]:
    return f"{mlp}.layers.{at}", f"{mlp}.bounds.{at}"
