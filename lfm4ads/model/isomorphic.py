"""The upstream's network, or its mix tower, inside a downstream model (arXiv 2508.14948).

Dimension key: B rows, H last hidden width, T tasks, U widths of a side's representations.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lfm4ads.core.errors import UserError
from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema
from lfm4ads.model.arm import EVERYTHING, IR, NOTHING, UR
from lfm4ads.model.config import LfmConfig
from lfm4ads.model.lfm import Lfm
from lfm4ads.model.parts import build_encoders, build_heads, build_mix, build_tables
from lfm4ads.nn.conditional import conditional_logits, plan_given

ModuleUse = Literal["logit", "hidden", "both"]
_TOWERS = ("tables.", "users.", "items.", "pairs.")


@dataclass
class Joined:
    """What a module gives the downstream model."""

    top_BH: Tensor | None
    """Term of the last hidden layer; zero at start."""
    logits_BT: Tensor | None
    """Term of the logits; the upstream's own at start."""


class IsomorphicModule(nn.Module):
    """The upstream mix tower of one domain, fed with stored UR and IR.

    It recomputes a cross representation CR'(u, i) per sample, so no (user, item) pair is ever
    stored. A key without a stored representation gets a learned default, zero at start. Pair fields
    are not stored and count as zeros, as they do for some rows of the upstream's training.
    """

    def __init__(
        self,
        schema: Schema,
        upstream: LfmConfig,
        *,
        domain: str,
        tasks: Sequence[int],
        use: ModuleUse,
        top: int,
    ) -> None:
        """``tasks``: upstream indices of the downstream tasks; ``top``: width it joins."""
        super().__init__()
        tables = build_tables(schema, upstream)
        layouts = build_encoders(schema, upstream, tables=tables).layouts
        self.mix = build_mix(
            schema, upstream, layouts=layouts, domains=[domain], tasks=schema.tasks
        )
        scenarios, every = len(schema.scenarios), len(schema.tasks)
        self.heads = (
            build_heads(self.mix.width, upstream, scenarios=scenarios, tasks=every)
            if use in ("logit", "both")
            else None
        )
        widths = [sum(one.widths[side] for one in layouts.values()) for side in (0, 1)]
        self.default_ur = nn.Parameter(torch.zeros(widths[0]))
        self.default_ir = nn.Parameter(torch.zeros(widths[1]))
        self.join = nn.Linear(self.mix.width, top) if use in ("hidden", "both") else None
        if self.join is not None:
            nn.init.zeros_(self.join.weight)
            nn.init.zeros_(self.join.bias)
        self._tasks = list(tasks)
        self._given = plan_given(upstream.heads.given, tasks=list(schema.tasks))

    def forward(self, batch: Batch) -> Joined:
        """Return its terms for every row."""
        sides = [
            torch.where(batch.present[name].unsqueeze(1) > 0, batch.reps[name], default)
            for name, default in ((UR, self.default_ur), (IR, self.default_ir))
        ]
        only_branch_B = torch.zeros_like(batch.domain)
        mixed_top = self.mix(*sides, only_branch_B).top
        joined = Joined(None, None)
        if self.join is not None:
            # With a stream a task, their mean.
            hidden_BH = mixed_top if mixed_top.dim() == 2 else mixed_top.mean(dim=1)
            joined.top_BH = self.join(F.relu(hidden_BH))
        if self.heads is not None:
            logits_BT = self.heads(mixed_top, batch.scenario)
            joined.logits_BT = conditional_logits(logits_BT, self._given)[:, self._tasks]
        return joined


def module_weights(names: Iterable[str]) -> dict[str, str]:
    """Return own name -> upstream name of every tensor that a module takes over.

    ``names`` are those of the downstream's state, buffers too: a spectral bound's vectors belong to
    the weight that they bound.
    """
    taken = ("module.mix.", "module.heads.")
    return {name: name.removeprefix("module.") for name in names if name.startswith(taken)}


class Twin(nn.Module):
    """The upstream's own network as a downstream model: CR'_k of the public code."""

    def __init__(
        self, schema: Schema, upstream: LfmConfig, *, domain: str, tasks: Sequence[int]
    ) -> None:
        """``tasks``: upstream indices of the downstream tasks."""
        super().__init__()
        self.network = Lfm(schema, upstream)
        self._domain = domain
        self._tasks = list(tasks)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, T)."""
        return self.network(batch).logits[:, self._tasks]

    def copied(self, through: str) -> dict[str, str]:
        """Return own name -> upstream name of every tensor up to a layer, that one included.

        Raises:
            UserError: The network has no such layer.
        """
        made_by = self.network.mix.layer_prefixes(self._domain)
        layers = list(made_by)
        if through not in (NOTHING, *layers, EVERYTHING):
            raise UserError(
                f"copy names {through}, which is no layer of the upstream; it has"
                f" {', '.join((NOTHING, *layers, EVERYTHING))}",
                everywhere=True,
            )
        names = [name.removeprefix("network.") for name in self.state_dict()]
        if through != EVERYTHING:
            chosen = [] if through == NOTHING else layers[: layers.index(through) + 1]
            prefixes = [f"mix.{one}" for layer in chosen for one in made_by[layer]]
            prefixes += _TOWERS if chosen else ()
            names = [name for name in names if name.startswith(tuple(prefixes))]
        return {f"network.{name}": name for name in names}
