"""What the upstream model minimises: weighted BCE and a ranking term over the global batch.

Dimension key: B rows of this rank, R rows of all ranks, T tasks, C logits a task (1, or 2 in JRC),
D domains.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema
from lfm4ads.nn.ranking import (
    Ranked,
    cap_negatives,
    hash_rows,
    jrc_loss,
    list_ce_loss,
    list_loss,
    pair_loss,
)
from lfm4ads.train.between import Between, BetweenConfig, TaskLosses
from lfm4ads.train.losses import bce_by_task, full_precision, masked_bce
from lfm4ads.train.weights import (
    Balance,
    RepeatConfig,
    Survey,
    balance_weights,
    check_repeat,
    repeat_weight,
)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The loss of an upstream run; the default is the plain BCE over all labels."""

    rank: Literal["none", "pair", "list", "list_ce", "jrc"] = "none"
    """Ranking term of every binary task; jrc needs a model with two logits a task."""
    alpha: float = 0.9
    """Weight of BCE; the ranking term has 1 - alpha."""
    tasks: tuple[str, ...] = ()
    """Tasks with a ranking term; empty: all binary ones. Where a batch has one positive in a
    thousand rows, the term's gradient on it is a hundred times BCE's: leave such tasks out."""
    within: Literal["scenario", "batch"] = "scenario"
    """Rows that are compared; across scenarios mostly base rates are learnt. Scenarios weigh by
    their labels, not by their pairs."""
    max_negatives: int = 512
    """Negatives of a task that one step's pairs share; lists have no pairs and use all."""
    task_weights: dict[str, float] = field(default_factory=dict)
    """Factors on the loss of some tasks; 1 for the others."""
    domain_weights: dict[str, float] = field(default_factory=dict)
    """Factors on the loss of some domains; 1 for the others."""
    balance: Balance = "none"
    """Equal label mass for every domain, or every (domain, task), before the factors above."""
    repeat: RepeatConfig = field(default_factory=RepeatConfig)
    between: BetweenConfig = field(default_factory=BetweenConfig)
    """Weights of tasks that follow their losses or gradients, on top of the factors above."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"loss.alpha must be in 0..1, got {self.alpha}")
        if self.max_negatives < 1:
            raise ValueError(f"loss.max_negatives must be at least 1, got {self.max_negatives}")
        for name, weights in self._factors().items():
            for key, weight in weights.items():
                if not (0 <= weight < float("inf")):
                    raise ValueError(f"{name}.{key} must be at least 0 and finite, got {weight}")

    def _factors(self) -> dict[str, dict[str, float]]:
        return {"loss.task_weights": self.task_weights, "loss.domain_weights": self.domain_weights}

    @property
    def needs_survey(self) -> bool:
        """Whether weights are made from counts of the first training day."""
        return self.balance != "none" or bool(self.repeat.feature)

    @property
    def needs_pairs(self) -> bool:
        """Whether the model must give two logits a task."""
        return self.rank == "jrc"


class Objective:
    """Callable loss of a batch, summed over its rows; a sum over ranks is that of the global batch.

    Per task alpha * sum of BCE + (1 - alpha) * n * mean of the ranking term, where n is the
    weighted number of labels of the global batch: both are on the scale of a sum over rows.
    """

    def __init__(
        self, config: LossConfig, *, schema: Schema, ranks: Ranks, survey: Survey | None = None
    ) -> None:
        """Check names and place the weights on the device.

        Args:
            config: The loss.
            schema: Of the batches.
            ranks: The job.
            survey: Required when ``config.needs_survey``.

        Raises:
            UserError: a weight or the repeat feature names what the schema lacks; on every rank.
        """
        check_repeat(config.repeat, schema=schema)
        if config.needs_survey and survey is None:
            raise ValueError("loss.balance and loss.repeat need a survey; see take_survey")
        self._config = config
        self._schema = schema
        self._ranks = ranks
        self._repeat_mean = survey.repeat_mean if survey else 1.0
        tasks = list(schema.tasks)
        ranked = config.tasks or schema.binary_tasks
        for task in config.tasks:
            if task not in schema.binary_tasks:
                raise UserError(
                    f"loss.tasks names {task}; binary tasks are {', '.join(schema.binary_tasks)}",
                    everywhere=True,
                )
        self._binary = [tasks.index(task) for task in ranked]
        self._bce_share_T = torch.ones(len(tasks), device=ranks.device)
        self._bce_share_T[self._binary] = config.alpha
        task_T = _factors(config.task_weights, names=tasks, what="task")
        domain_D = _factors(config.domain_weights, names=schema.domains, what="domain")
        weight_DT = np.outer(domain_D, task_T)
        if survey is not None:
            weight_DT = weight_DT * balance_weights(survey, balance=config.balance)
        self._weight_DT = torch.tensor(weight_DT, dtype=torch.float32, device=ranks.device)
        self._weighs = bool(config.task_weights or config.domain_weights or config.needs_survey)
        self.between = Between(config.between, tasks=tasks, ranks=ranks)
        """What weighs tasks against each other; its state belongs in checkpoints."""

    def __call__(
        self,
        logits_BT: Tensor,
        batch: Batch,
        *,
        step: int,
        pairs_BT2: Tensor | None = None,
        looked: Callable[[], list[Tensor]] = list,
    ) -> Tensor:
        """Return the loss of this rank's rows. Collective but for plain sums of BCE.

        Args:
            logits_BT: One column a task; z1 - z0 under JRC.
            batch: On the device of the logits.
            step: Of the run, the same on all ranks and after a restart: it draws the negatives.
            pairs_BT2: z0 and z1 of every task; with JRC and only then.
            looked: Gives what the tables returned, for ``loss.between``; see ``looked_up``.
        """
        assert (pairs_BT2 is not None) == self._config.needs_pairs
        if self.between.weighs:
            parts = self.by_task(logits_BT, batch, step=step, pairs_BT2=pairs_BT2)
            return self.between.join(parts, looked=looked, step=step)
        weights_BT = self.label_weights(batch)
        bce = masked_bce(logits_BT, batch, weights_BT=self._bce_weights(weights_BT))
        if self._config.rank == "none":
            return bce
        z_BTC = full_precision(logits_BT.unsqueeze(2) if pairs_BT2 is None else pairs_BT2)
        counts_BT = _counts(batch, weights_BT)
        terms = self._ranking(z_BTC, batch, weights_BT=counts_BT, step=step)
        total = sum(terms.values(), z_BTC.new_zeros(()))
        return bce + (1 - self._config.alpha) * self._own_part(total)

    def by_task(
        self, logits_BT: Tensor, batch: Batch, *, step: int, pairs_BT2: Tensor | None = None
    ) -> TaskLosses:
        """Return the parts of the plain sum, each task with its ranking term. Collective with one.

        The arguments are those of a call.
        """
        weights_BT = self.label_weights(batch)
        losses_T = bce_by_task(logits_BT, batch, weights_BT=self._bce_weights(weights_BT))
        counts_BT = _counts(batch, weights_BT)
        if self._config.rank != "none":
            z_BTC = full_precision(logits_BT.unsqueeze(2) if pairs_BT2 is None else pairs_BT2)
            terms = self._ranking(z_BTC, batch, weights_BT=counts_BT, step=step)
            none = z_BTC.new_zeros(())
            ranking_T = torch.stack([terms.get(task, none) for task in range(len(losses_T))])
            losses_T = losses_T + (1 - self._config.alpha) * self._own_part(ranking_T)
        return TaskLosses(losses_T=losses_T, labels_T=counts_BT.sum(0))

    def _bce_weights(self, weights_BT: Tensor | None) -> Tensor | None:
        if self._config.rank == "none":
            return weights_BT
        # A task without a ranking term keeps the whole of its BCE.
        return self._bce_share_T if weights_BT is None else weights_BT * self._bce_share_T

    def label_weights(self, batch: Batch) -> Tensor | None:
        """Return the factor on each label's loss (B, T), or None where all are 1."""
        if not self._weighs:
            return None
        weights_BT = self._weight_DT[batch.domain]
        if not self._config.repeat.feature:
            return weights_BT
        repeat_B1 = self._repeat(batch).unsqueeze(1)
        if self._config.repeat.negatives_only:
            return weights_BT * torch.where(batch.labels > 0.5, 1.0, repeat_B1)
        return weights_BT * repeat_B1

    def correction(self, batch: Batch) -> Tensor:
        """Return what to add to a row's logits (B,) when scoring.

        With positives of weight a and negatives of weight b the learnt rate q is that of other
        odds: p = q b / (q b + (1 - q) a), so logit p = logit q + log(b / a). Zero unless weights
        depend on the label.
        """
        repeat = self._config.repeat
        if not (repeat.feature and repeat.negatives_only):
            return torch.zeros_like(batch.valid, dtype=torch.float32)
        return self._repeat(batch).log()

    def _repeat(self, batch: Batch) -> Tensor:
        weight_B = repeat_weight(batch, repeat=self._config.repeat, schema=self._schema)
        return weight_B / self._repeat_mean

    def _own_part(self, terms: Tensor) -> Tensor:
        """Return this rank's share of ranking terms of the global batch.

        Every rank works out the whole terms with its own rows carrying gradient, so gradients sum
        over ranks to those of the terms; of the values each reports an equal part.
        """
        return terms.detach() / self._ranks.world + (terms - terms.detach())

    def _ranking(
        self, z_BTC: Tensor, batch: Batch, *, weights_BT: Tensor, step: int
    ) -> dict[int, Tensor]:
        """Return the ranking terms of the global batch by task index."""
        z_RTC = self._with_own_gradient(z_BTC)
        facts = torch.stack([weights_BT, batch.labels], dim=2)
        weight_RT, label_RT = self._ranks.all_gather(facts).unbind(2)
        keys = (batch.row_id, batch.user, batch.item, batch.time, batch.scenario)
        places = torch.stack([batch.scenario, hash_rows(keys, salt=step)], dim=1)
        scenario_R, hash_R = self._ranks.all_gather(places).unbind(1)
        group_R = scenario_R if self._config.within == "scenario" else torch.zeros_like(scenario_R)
        terms: dict[int, Tensor] = {}
        for column in self._binary:
            # Padding, rows without the label and weights of 0 are all rows that are not there.
            kept = weight_RT[:, column].nonzero().squeeze(1)
            weight_N = weight_RT[kept, column].to(z_BTC.dtype)
            groups, group_N = len(self._schema.scenarios), group_R[kept]
            rows = Ranked(
                positive_N=label_RT[kept, column] > 0.5,
                group_N=group_N,
                weight_N=weight_N,
                num_groups=groups,
                mass_G=weight_N.new_zeros(groups).index_add(0, group_N, weight_N),
            )
            mean = self._mean(z_RTC[kept, column], rows=rows, hash_N=hash_R[kept])
            terms[column] = weight_N.sum() * mean
        return terms

    def _with_own_gradient(self, z_BTC: Tensor) -> Tensor:
        """Return all ranks' logits (R, T, C), those of this rank with their history."""
        first = self._ranks.rank * len(z_BTC)
        before, _, after = self._ranks.all_gather(z_BTC).split(
            [first, len(z_BTC), (self._ranks.world - 1) * len(z_BTC) - first]
        )
        return torch.cat([before, z_BTC, after])

    def _mean(self, z_NC: Tensor, *, rows: Ranked, hash_N: Tensor) -> Tensor:
        config = self._config
        match config.rank:
            case "pair":
                stay = cap_negatives(rows, hash_N=hash_N, max_negatives=config.max_negatives)
                return pair_loss(z_NC[stay, 0], rows=rows.take(stay))
            case "list":
                return list_loss(z_NC[:, 0], rows=rows)
            case "list_ce":
                return list_ce_loss(z_NC[:, 0], rows=rows)
            case "jrc":
                return jrc_loss(z_NC, rows=rows)
            case "none":
                raise AssertionError("there is no ranking term")


def _counts(batch: Batch, weights_BT: Tensor | None) -> Tensor:
    """Return as how many labels each counts (B, T)."""
    return batch.masks if weights_BT is None else batch.masks * weights_BT


def _factors(weights: Mapping[str, float], *, names: Iterable[str], what: str) -> list[float]:
    known = list(names)
    for name in weights:
        if name not in known:
            raise UserError(
                f"loss.{what}_weights names {what} {name}, but the {what}s are"
                f" {', '.join(known)}; correct or remove it",
                everywhere=True,
            )
    return [weights.get(name, 1.0) for name in known]
