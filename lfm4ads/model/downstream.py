"""A downstream ranking model and the ways upstream representations enter it (arXiv 2508.14948).

Dimension key: B rows, E width of the embeddings, H last hidden width, T tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema
from lfm4ads.model.config import LfmConfig
from lfm4ads.model.parts import build_encoders, build_heads, build_mix, build_tables
from lfm4ads.nn.adapter import NonLinearAdapter
from lfm4ads.nn.fields import FieldConfig, FieldEncoder, check_codes
from lfm4ads.nn.heads import ScenarioHeads
from lfm4ads.nn.interactions.dcnv2 import CrossNetwork
from lfm4ads.nn.mlp import Mlp
from lfm4ads.nn.standardise import Standardiser
from lfm4ads.nn.tables import Tables, TableSet, check_features

Arm = Literal["vanilla", "sum", "adapter", "module"]


@dataclass(frozen=True, kw_only=True)
class DownstreamConfig:
    """Shape of the downstream model; arms differ only in how representations enter."""

    features: tuple[str, ...] = ()
    """Features the downstream team has; empty means all."""
    fields: FieldConfig = field(default_factory=FieldConfig)
    cross_layers: int = 2
    mlp: tuple[int, ...] = (64, 32)
    dropout: float = 0.2
    sum_dim: int = 16
    """Width of the linear map of UR in the arm sum."""
    adapter_hidden: int = 64
    adapter_dropout: float = 0.2
    module_lr_scale: float = 0.1
    """Learning rate of the transferred module as a share of the dense one."""

    def __post_init__(self) -> None:
        if not self.mlp:
            raise ValueError("model.mlp needs at least one layer")


class IsomorphicModule(nn.Module):
    """The upstream mix tower of one domain, fed with stored UR and IR, with the upstream's heads.

    It recomputes a cross representation CR'(u, i) per sample, so no (user, item) pair is ever
    stored. A key without a stored representation gets a learned default, zero at start. Pair fields
    are not stored and count as zeros, as they do for some rows of the upstream's training.
    """

    def __init__(
        self, schema: Schema, upstream: LfmConfig, *, domain: str, tasks: Sequence[int]
    ) -> None:
        """``tasks``: upstream indices of the downstream tasks."""
        super().__init__()
        tables = build_tables(schema, upstream)
        layouts = build_encoders(schema, upstream, tables=tables).layouts
        self.mix = build_mix(
            schema, upstream, layouts=layouts, domains=[domain], tasks=schema.tasks
        )
        self.heads = build_heads(
            self.mix.width, upstream, scenarios=len(schema.scenarios), tasks=len(schema.tasks)
        )
        widths = [sum(one.widths[side] for one in layouts.values()) for side in (0, 1)]
        self.default_ur = nn.Parameter(torch.zeros(widths[0]))
        self.default_ir = nn.Parameter(torch.zeros(widths[1]))
        self._tasks = list(tasks)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, T)."""
        sides = [
            torch.where(batch.present[name].unsqueeze(1) > 0, batch.reps[name], default)
            for name, default in (("user.ur", self.default_ur), ("item.ir", self.default_ir))
        ]
        only_branch_B = torch.zeros_like(batch.domain)
        mixed = self.mix(*sides, only_branch_B)
        return self.heads(mixed.top, batch.scenario)[:, self._tasks]


def module_weights(model: nn.Module) -> dict[str, str]:
    """Return downstream name -> upstream name of every tensor the module takes over.

    Buffers too: a spectral bound's vectors belong to the weight that they bound.
    """
    taken = ("module.mix.", "module.heads.")
    return {
        name: name.removeprefix("module.") for name in model.state_dict() if name.startswith(taken)
    }


class Downstream(nn.Module):
    """DCNv2 on the team's own features; an arm adds upstream knowledge to it.

    vanilla: x_0 = E. sum: x_0 = [E ; W UR + b] (the SUM baseline). adapter: every representation
    through a non-linear adapter that gates E and adds to the last hidden layer. module: adds the
    isomorphic module's logit.
    """

    def __init__(
        self,
        schema: Schema,
        config: DownstreamConfig,
        *,
        arm: Arm,
        tasks: Sequence[int],
        domain: str,
        rep_dims: Mapping[str, int],
        upstream: LfmConfig | None,
    ) -> None:
        """``tasks``: upstream indices of the tasks, in the order of the logits."""
        super().__init__()
        features = config.features or tuple(schema.features)
        check_features(schema, features, setting="model.features")
        check_codes(schema, config.fields)
        self.arm: Arm = arm
        self.tables = Tables(schema, features, sets={"": TableSet()})
        self.fields = FieldEncoder(schema, features, tables=self.tables, config=config.fields)
        width = self.fields.width
        scenarios = len(schema.scenarios)
        width += config.sum_dim if arm == "sum" else 0
        self.cross = CrossNetwork(width, layers=config.cross_layers)
        self.mlp = Mlp(width, config.mlp, dropout=config.dropout)
        self.heads = ScenarioHeads(self.mlp.width, scenarios=scenarios, tasks=len(tasks))
        # What an arm adds is made last: all arms of a seed share the first values of the rest.
        reads = arm in ("sum", "adapter")
        self.standardiser = Standardiser(rep_dims) if reads else None
        self.sum_map = nn.Linear(rep_dims["user.ur"], config.sum_dim) if arm == "sum" else None
        self._user = [name for name in rep_dims if name.startswith("user.")]
        self._item = [name for name in rep_dims if name.startswith("item.")]
        self.adapter = (
            NonLinearAdapter(
                sum(rep_dims[name] for name in self._user),
                sum(rep_dims[name] for name in self._item),
                embedding_width=width,
                hidden=config.adapter_hidden,
                top=config.mlp[-1],
                dropout=config.adapter_dropout,
            )
            if arm == "adapter"
            else None
        )
        self.module = (
            IsomorphicModule(schema, upstream, domain=domain, tasks=tasks)
            if arm == "module" and upstream is not None
            else None
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, T) of the downstream tasks."""
        x_BE = self.fields(self.tables(batch.sparse), batch)
        top_BH: Tensor | None = None
        if self.standardiser is not None and self.sum_map is not None:
            x_BE = torch.cat([x_BE, self.sum_map(self.standardiser(batch))], dim=1)
        if self.standardiser is not None and self.adapter is not None:
            sides = [self.standardiser(batch, names) for names in (self._user, self._item)]
            adapted = self.adapter(*sides)
            x_BE, top_BH = x_BE * adapted.gate_BE, adapted.top_BT
        x_BE = [x_BE, *self.cross(x_BE)][-1]
        h_BH = self.mlp(x_BE)[-1]
        logits_BT = self.heads(h_BH if top_BH is None else h_BH + top_BH, batch.scenario)
        return logits_BT if self.module is None else logits_BT + self.module(batch)
