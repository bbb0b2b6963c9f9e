"""A downstream ranking model and the ways upstream representations enter it (arXiv 2508.14948).

Dimension key: B rows, E width of the embeddings, H last hidden width, T tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema
from lfm4ads.model.arm import ArmConfig
from lfm4ads.model.config import LfmConfig
from lfm4ads.model.isomorphic import IsomorphicModule, Joined
from lfm4ads.nn.adapter import NonLinearAdapter, SigmoidGate, TokenAdapter
from lfm4ads.nn.fields import FieldConfig, FieldEncoder, check_codes
from lfm4ads.nn.heads import ScenarioHeads
from lfm4ads.nn.interactions.dcnv2 import CrossNetwork
from lfm4ads.nn.mlp import Mlp
from lfm4ads.nn.standardise import Standardiser
from lfm4ads.nn.tables import Tables, TableSet, check_features


@dataclass(frozen=True, kw_only=True)
class DownstreamConfig:
    """Shape of the downstream model; arms differ only in how representations enter."""

    features: tuple[str, ...] = ()
    """Features the downstream team has; empty means all."""
    dim: int = 0
    """Width of every table's rows; 0: the schema's."""
    fields: FieldConfig = field(default_factory=FieldConfig)
    cross_layers: int = 2
    mlp: tuple[int, ...] = (64, 32)
    dropout: float = 0.2
    concat_dim: int = 16
    """Width of the linear map of what ``concat`` names."""
    adapter_hidden: int = 64
    adapter_dropout: float = 0.2
    token_dim: int = 16
    """Width of a token of what ``tokens`` names."""
    num_tokens: int = 2
    """Tokens that enter."""
    module_lr_scale: float = 0.1
    """Learning rate of a module, which starts at upstream weights, as a share of the dense one."""
    copy_lr_scale: float = 1.0
    """Factor on both learning rates of an arm that copies the upstream's network."""

    def __post_init__(self) -> None:
        if not self.mlp:
            raise ValueError("model.mlp needs at least one layer")


class Downstream(nn.Module):
    """DCNv2 on the team's own features E; an arm adds upstream knowledge to it.

    x_0 = [E * gates ; concat ; tokens], x = DCNv2(x_0), logits = heads(MLP(x) + top terms) + the
    module's.
    """

    def __init__(
        self,
        schema: Schema,
        config: DownstreamConfig,
        *,
        arm: ArmConfig,
        tasks: Sequence[int],
        domain: str,
        rep_dims: Mapping[str, int],
        upstream: LfmConfig,
    ) -> None:
        """``arm`` has names, no patterns; ``tasks``: upstream indices in the order of the logits.

        ``rep_dims``: widths of at least what the arm reads.
        """
        super().__init__()
        features = config.features or tuple(schema.features)
        check_features(schema, features, setting="model.features")
        check_codes(schema, config.fields)
        self.tables = Tables(schema, features, sets={"": TableSet(dim=config.dim)})
        self.fields = FieldEncoder(schema, features, tables=self.tables, config=config.fields)
        embeddings = self.fields.width
        width = embeddings + (config.concat_dim if arm.concat else 0)
        width += config.num_tokens * config.token_dim if arm.tokens else 0
        self.cross = CrossNetwork(width, layers=config.cross_layers)
        self.mlp = Mlp(width, config.mlp, dropout=config.dropout)
        self.heads = ScenarioHeads(
            self.mlp.width, scenarios=len(schema.scenarios), tasks=len(tasks)
        )
        # What an arm adds is made last: all arms of a seed share the first values of the rest.
        self.entry = _Entry(config, arm, rep_dims=rep_dims, embeddings=embeddings)
        self.module = (
            IsomorphicModule(
                schema,
                upstream,
                domain=domain,
                tasks=tasks,
                use=arm.module,
                top=self.mlp.width,
            )
            if arm.module
            else None
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, T) of the downstream tasks."""
        x_BE, top_BH = self.entry(self.fields(self.tables(batch.sparse), batch), batch)
        x_BE = [x_BE, *self.cross(x_BE)][-1]
        joined = self.module(batch) if self.module else Joined(None, None)
        h_BH = self.mlp(x_BE)[-1]
        for term_BH in (top_BH, joined.top_BH):
            h_BH = h_BH if term_BH is None else h_BH + term_BH
        logits_BT = self.heads(h_BH, batch.scenario)
        return logits_BT if joined.logits_BT is None else logits_BT + joined.logits_BT


class _Entry(nn.Module):
    """Where representations enter: at the embeddings, before any interaction."""

    def __init__(
        self,
        config: DownstreamConfig,
        arm: ArmConfig,
        *,
        rep_dims: Mapping[str, int],
        embeddings: int,
    ) -> None:
        super().__init__()
        stored = {name: rep_dims[name] for some in arm.patterns.values() for name in some}
        self.standardiser = Standardiser(stored, chosen=arm.dims) if stored else None
        dims = self.standardiser.dims if self.standardiser else {}
        self._arm = arm
        self._sides = [
            [name for name in arm.adapter if name.startswith(side)] for side in ("user.", "item.")
        ]
        self.concat = nn.Linear(_width(arm.concat, dims), config.concat_dim) if arm.concat else None
        self.gate = (
            SigmoidGate(_width(arm.gate, dims), embedding_width=embeddings) if arm.gate else None
        )
        self.adapter = (
            NonLinearAdapter(
                *(_width(names, dims) for names in self._sides),
                embedding_width=embeddings,
                hidden=config.adapter_hidden,
                top=config.mlp[-1],
                dropout=config.adapter_dropout,
            )
            if arm.adapter
            else None
        )
        self.tokens = (
            TokenAdapter(
                {name: dims[name] for name in arm.tokens},
                token_dim=config.token_dim,
                num_tokens=config.num_tokens,
            )
            if arm.tokens
            else None
        )

    def forward(self, x_BE: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the input of the interactions, and the term of the last hidden layer if any."""
        if self.standardiser is None:
            return x_BE, None
        read, top_BH = self.standardiser, None
        if self.gate is not None:
            x_BE = x_BE * self.gate(read(batch, self._arm.gate))
        if self.adapter is not None:
            sides = [read(batch, names) if names else x_BE[:, :0] for names in self._sides]
            adapted = self.adapter(*sides)
            x_BE, top_BH = x_BE * adapted.gate_BE, adapted.top_BT
        parts = [x_BE]
        if self.concat is not None:
            parts.append(self.concat(read(batch, self._arm.concat)))
        if self.tokens is not None:
            reps = {name: read(batch, [name]) for name in self._arm.tokens}
            parts.append(self.tokens(reps, batch.present))
        return torch.cat(parts, dim=1), top_BH


def _width(names: Sequence[str], dims: Mapping[str, int]) -> int:
    return sum(dims[name] for name in names)
