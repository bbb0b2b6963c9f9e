"""The part of the foundation model that sees user and item together.

Dimension key: B rows, U widths of a side's representations over all table sets, P of the pair
fields, W width of one set's fields, H width of an expert's output, S streams, M experts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lfm4ads.core.errors import UserError
from lfm4ads.nn.access import SHARED, plan_levels
from lfm4ads.nn.branch import Branch, MixConfig, Mixed, branch_layers
from lfm4ads.nn.experts import Access
from lfm4ads.nn.interactions.build import build_interaction
from lfm4ads.nn.interactions.layout import FieldLayout

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
        self._layouts = dict(layouts)
        self._experts = config.all_experts
        self.streams = list(streams)
        """Who merges: the tasks, or one empty name for all."""
        self._sets = {name: one.tables for name, one in config.all_experts.items()}
        _check_names(config, self._sets, layouts=layouts, streams=streams)
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
        levels = plan_levels(access, config.all_experts, streams=streams, layers=config.layers)
        self.branches = nn.ModuleDict(
            {
                domain: Branch(
                    config,
                    levels,
                    outputs=outputs,
                    gate_widths=gate_widths,
                    dropout=dropout,
                    spectral=spectral,
                )
                for domain in domains
            }
        )
        self._of_branch = branch_layers(config, levels)
        self.layer_dims = dims | {name: width for name, (width, _) in self._of_branch.items()}
        """Width of every layer a cross representation can be read from, input to output."""
        self._domains = list(domains)
        self.width = config.hidden[-1]

    def fields_of_experts(self) -> dict[str, tuple[str, FieldLayout]]:
        """Return the table set and the fields of every expert's interaction."""
        return {name: (one, self._layouts[one].fields) for name, one in self._sets.items()}

    @property
    def groups(self) -> list[str]:
        """What each expert counts to when one asks whom a task reads.

        Owners where experts have one; else table sets; of one set, the experts themselves.
        """
        if any(one.owner for one in self._experts.values()):
            return [one.owner or SHARED for one in self._experts.values()]
        return list(self._sets.values() if len(self._layouts) > 1 else self._experts)

    def layer_prefixes(self, domain: str) -> dict[str, tuple[str, ...]]:
        """Return the prefixes of the tensors that make each layer from those before it."""
        prefixes: dict[str, tuple[str, ...]] = {"towers": ()}
        for name, layers in self._layer_names.items():
            own = f"interactions.{name}."
            for at, layer in enumerate(layers):
                # Only a cross network has several layers.
                prefixes[layer] = (own if len(layers) == 1 else f"{own}layers.{at}.",)
        branch = f"branches.{domain}"
        for layer, (_, modules) in self._of_branch.items():
            prefixes[layer] = tuple(f"{branch}.{one}." for one in modules)
        return prefixes

    def forward(
        self, ur_BU: Tensor, ir_BU: Tensor, domain_B: Tensor, pair_BP: Tensor | None = None
    ) -> Mixed:
        """Mix representations (B, U) of all sets side by side; no pair fields count as zeros.

        Rows are routed: a branch computes only its domain's rows, and no gradient of one domain
        reaches another's branch.
        """
        fields = self._fields(ur_BU, ir_BU, pair_BP)
        first = next(iter(fields.values()))
        # The fields of one set without pairs are the towers' own: no second copy of every step.
        is_all = first.shape[1] == ur_BU.shape[1] + ir_BU.shape[1] and len(fields) == 1
        layers = {"towers": first if is_all else torch.cat([ur_BU, ir_BU], dim=1)}
        crossed: dict[str, Tensor] = {}
        for name, block in self.interactions.items():
            outputs = block(fields[self._sets[name]])
            layers |= dict(zip(self._layer_names[name], outputs, strict=True))
            crossed[name] = outputs[-1]
        seen = [fields[table_set] for table_set in self._sets.values()]
        routes = _Routes(domain_B, domains=len(self._domains))
        routed = [
            self.branches[domain](
                {name: routes.to(index, x_BW) for name, x_BW in crossed.items()},
                [routes.to(index, x_BW) for x_BW in seen],
            )
            for index, domain in enumerate(self._domains)
        ]
        for name in routed[0].layers:
            layers[name] = routes.back([one.layers[name] for one in routed])
        top_BSH = routes.back([one.top for one in routed])
        weight_BSM = routes.back([one.weights for one in routed])
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


class _Routes:
    """The rows of each domain of a batch: a tensor is sorted by domain once, however many read it.

    With one domain nothing moves.
    """

    def __init__(self, domain_B: Tensor, *, domains: int) -> None:
        self._sorted: dict[Tensor, Sequence[Tensor]] = {}
        self._order_B = torch.argsort(domain_B, stable=True) if domains > 1 else None
        self._back_B = None if self._order_B is None else torch.argsort(self._order_B)
        self._counts = torch.bincount(domain_B, minlength=domains).tolist() if domains > 1 else []

    def to(self, domain: int, x_BW: Tensor) -> Tensor:
        """Return the rows of a domain, in their order."""
        if self._order_B is None:
            return x_BW
        if x_BW not in self._sorted:
            # The backward of indexing adds row by row in one thread; this one does not.
            self._sorted[x_BW] = x_BW.index_select(0, self._order_B).split(self._counts)
        return self._sorted[x_BW][domain]

    def back(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the rows of all domains in the batch's order."""
        if self._back_B is None:
            return parts[0]
        return torch.cat(list(parts)).index_select(0, self._back_B)


def _check_names(
    config: MixConfig,
    sets: Mapping[str, str],
    *,
    layouts: Mapping[str, SetLayout],
    streams: Sequence[str],
) -> None:
    """Refuse sets that no expert reads or the model lacks, and chains of other tasks."""
    for name, table_set in sets.items():
        if table_set not in layouts:
            raise UserError(
                f"expert {name} reads table set {table_set}; model.sets has {', '.join(layouts)}",
                everywhere=True,
            )
    unread = set(layouts) - set(sets.values())
    if unread:
        raise UserError(
            f"no expert reads table set {min(unread)}; give it one or remove the set",
            everywhere=True,
        )
    for task in config.chain:
        if task not in streams:
            raise UserError(
                f"mix.chain names {task}; the tasks are {', '.join(streams)}", everywhere=True
            )
