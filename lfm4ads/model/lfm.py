"""The upstream foundation model: user tower, item tower, mix tower (arXiv 2508.14948).

Dimension key: B rows, T tasks, U widths of a side's representations over all table sets, P of the
pair fields, S streams, M experts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lfm4ads.core.ranks import Array
from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema
from lfm4ads.model.config import LfmConfig
from lfm4ads.model.parts import build_encoders, build_heads, build_mix, build_tables, shifting
from lfm4ads.nn.conditional import conditional_logits, plan_given
from lfm4ads.nn.fields import FieldEncoder, check_codes
from lfm4ads.nn.heads import ScenarioHeads
from lfm4ads.nn.pairs import check_pairs
from lfm4ads.nn.sngp import SngpHeads
from lfm4ads.nn.tables import Looked, check_features


@dataclass
class LfmOutput:
    """What one pass over a batch gives."""

    logits: Tensor
    """(B, T) of the row's scenario."""
    ur: Tensor
    """(B, U) user representation, a function of user features alone."""
    ir: Tensor
    """(B, U) item representation, a function of item features alone."""
    layers: dict[str, Tensor]
    """Cross representations (B, .) by layer name."""
    weights: Tensor
    """How experts were weighted (B, S, M)."""
    base_logits: Tensor | None = None
    """(B, T) of the joint loss: its two logits are (base, base + logit)."""


class Lfm(nn.Module):
    """Towers that never see the other side, so that UR and IR can be cached."""

    def __init__(self, schema: Schema, config: LfmConfig) -> None:
        super().__init__()
        check_features(schema, config.without, setting="model.without")
        check_codes(schema, config.fields)
        check_pairs(schema, config.pairs)
        self.tables = build_tables(schema, config)
        encoders = build_encoders(schema, config, tables=self.tables)
        self.users, self.items = nn.ModuleDict(encoders.users), nn.ModuleDict(encoders.items)
        self.pairs = nn.ModuleDict(encoders.pairs)
        self._pair_dropout = config.pairs.dropout
        self.mix = build_mix(
            schema, config, layouts=encoders.layouts, domains=schema.domains, tasks=schema.tasks
        )
        sides = (encoders.users, encoders.items)
        self.rep_dims = tuple(sum(one.tower.width for one in side.values()) for side in sides)
        """Widths of UR and IR."""
        self._last = list(self.mix.layer_dims)[-1]
        scenarios, tasks = len(schema.scenarios), len(schema.tasks)
        self.heads = build_heads(self.mix.width, config, scenarios=scenarios, tasks=tasks)
        self._given = plan_given(config.heads.given, tasks=list(schema.tasks))
        self.base_heads = (
            ScenarioHeads(self.mix.width, scenarios=scenarios, tasks=tasks)
            if config.heads.joint
            else None
        )
        context = shifting(schema, config)
        self.context_fields = (
            FieldEncoder(
                schema,
                context,
                tables=self.tables,
                table_set=config.context_set,
                config=config.fields,
            )
            if context
            else None
        )
        self.context_head = (
            nn.Linear(self.context_fields.width, tasks) if self.context_fields else None
        )

    def forward(self, batch: Batch) -> LfmOutput:
        """Score a batch and expose its representations."""
        looked = self.tables(batch.sparse)
        ur_BU = torch.cat([one(looked, batch) for one in self.users.values()], dim=1)
        ir_BU = torch.cat([one(looked, batch) for one in self.items.values()], dim=1)
        pair_BP = self._pair_fields(looked, batch) if self.pairs else None
        mixed = self.mix(ur_BU, ir_BU, batch.domain, pair_BP)
        logits_BT = self.heads(mixed.top, batch.scenario)
        if self.context_fields is not None and self.context_head is not None:
            logits_BT = logits_BT + self.context_head(self.context_fields(looked, batch))
        logits_BT = conditional_logits(logits_BT, self._given)
        base_BT = self.base_heads(mixed.top, batch.scenario) if self.base_heads else None
        return LfmOutput(logits_BT, ur_BU, ir_BU, mixed.layers, mixed.weights, base_BT)

    def _pair_fields(self, looked: Looked, batch: Batch) -> Tensor:
        """Return the pair fields (B, P) of all sets; in training some rows are zeros."""
        pair_BP = torch.cat([one(looked, batch) for one in self.pairs.values()], dim=1)
        if self.training and self._pair_dropout:
            # One draw for all sets, since downstream none of them has any.
            keep_B1 = torch.rand(len(pair_BP), 1, device=pair_BP.device) >= self._pair_dropout
            pair_BP = pair_BP * keep_B1
        return pair_BP

    @property
    def observes(self) -> bool:
        """Whether the heads have a variance, which must be told of the rows it knows."""
        return isinstance(self.heads, SngpHeads)

    def variance(self, output: LfmOutput) -> Tensor | None:
        """Return the variance of each logit (B, T), None for heads that have none."""
        if isinstance(self.heads, SngpHeads):
            return self.heads.variance(output.layers[self._last])
        return None

    @property
    def observes_steps(self) -> bool:
        """Whether it is told of each training batch, and not of whole days after them."""
        return isinstance(self.heads, SngpHeads) and self.heads.is_running

    def observe(self, output: LfmOutput, batch: Batch) -> None:
        """Add a batch to the rows the variance knows, once it is settled."""
        if isinstance(self.heads, SngpHeads):
            top_BH = output.layers[self._last]
            self.heads.observe(top_BH, batch.scenario, batch.masks, logits_BT=output.logits)

    def drop_observed(self) -> None:
        """Forget what was observed since the last settlement."""
        if isinstance(self.heads, SngpHeads):
            self.heads.drop_pending()

    def settle(self, sum_over_ranks: Callable[[Array], Array]) -> None:
        """Make what was observed on all ranks count."""
        if isinstance(self.heads, SngpHeads):
            self.heads.settle(sum_over_ranks)
