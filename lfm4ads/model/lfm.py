"""The upstream foundation model: user tower, item tower, mix tower (arXiv 2508.14948).

Dimension key: B rows, T tasks, S scenarios, U width of UR, I width of IR.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema
from lfm4ads.nn.fields import FieldEncoder, build_tables
from lfm4ads.nn.heads import ScenarioHeads
from lfm4ads.nn.mix import MixTower, layer_names, tower_input
from lfm4ads.nn.mlp import Mlp


@dataclass(frozen=True, kw_only=True)
class LfmConfig:
    """Shape of the foundation model."""

    number_dim: int = 8
    vector_dim: int = 16
    tower_hidden: tuple[int, ...] = (128,)
    rep_dim: int = 32
    """Width of UR and of IR."""
    cross_layers: int = 3
    mlp: tuple[int, ...] = (128, 64)
    """Hidden layers of each domain's branch; CR is usually read from the last, the penultimate."""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.mlp:
            raise ValueError("model.mlp needs at least one layer")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {self.dropout}")

    @property
    def layers(self) -> list[str]:
        """Names of the layers a cross representation can be read from."""
        return layer_names(cross_layers=self.cross_layers, mlp_layers=len(self.mlp))

    def layer_dim(self, layer: str) -> int:
        """Return the width of a layer of the mix tower."""
        if layer.startswith("mlp_"):
            return self.mlp[int(layer.removeprefix("mlp_")) - 1]
        return 3 * self.rep_dim


@dataclass
class LfmOutput:
    """What one pass over a batch gives."""

    logits: Tensor
    """(B, T) of the row's scenario."""
    ur: Tensor
    """(B, U) user representation, a function of user features alone."""
    ir: Tensor
    """(B, I) item representation, a function of item features alone."""
    layers: dict[str, Tensor]
    """Cross representations (B, .) by layer name."""


class Lfm(nn.Module):
    """Towers that never see the other side, so that UR and IR can be cached.

    Context only shifts the logit.
    """

    def __init__(self, schema: Schema, config: LfmConfig) -> None:
        super().__init__()
        self.tables = build_tables(schema, list(schema.features))
        dims = {"number_dim": config.number_dim, "vector_dim": config.vector_dim}
        self.user_fields = FieldEncoder(schema, schema.select(side="user"), **dims)
        self.item_fields = FieldEncoder(schema, schema.select(side="item"), **dims)
        hidden = (*config.tower_hidden, config.rep_dim)
        self.user_tower = Mlp(self.user_fields.width, hidden, dropout=config.dropout)
        self.item_tower = Mlp(self.item_fields.width, hidden, dropout=config.dropout)
        self.mix = MixTower(
            3 * config.rep_dim,
            cross_layers=config.cross_layers,
            hidden=config.mlp,
            domains=schema.domains,
            dropout=config.dropout,
        )
        scenarios, tasks = len(schema.scenarios), len(schema.tasks)
        self.heads = ScenarioHeads(self.mix.width, scenarios=scenarios, tasks=tasks)
        context = schema.select(side="context")
        self.context_fields = FieldEncoder(schema, context, **dims) if context else None
        self.context_head = (
            nn.Linear(self.context_fields.width, tasks) if self.context_fields else None
        )

    def forward(self, batch: Batch) -> LfmOutput:
        """Score a batch and expose its representations."""
        pooled = self.tables(batch.sparse)
        ur_BU = self.user_tower(self.user_fields(pooled, batch))[-1]
        ir_BI = self.item_tower(self.item_fields(pooled, batch))[-1]
        layers = self.mix(tower_input(ur_BU, ir_BI), batch.domain)
        logits_BT = self.heads(list(layers.values())[-1], batch.scenario)
        if self.context_fields is not None and self.context_head is not None:
            logits_BT = logits_BT + self.context_head(self.context_fields(pooled, batch))
        return LfmOutput(logits_BT, ur_BU, ir_BI, layers)
