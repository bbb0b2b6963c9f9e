"""A model's scores of a batch: corrected logits, and what exploration adds to them.

Dimension key: B rows, T binary tasks, X extra columns.
"""

import torch
from torch import Tensor

from lfm4ads.data.batch import Batch
from lfm4ads.data.schema import Schema
from lfm4ads.model.lfm import Lfm, LfmOutput
from lfm4ads.shard.sharded import Sharded
from lfm4ads.train.explore import ExploreConfig, ranking_scores, row_noise
from lfm4ads.train.gates import GateMass
from lfm4ads.train.objective import Objective


def joint_logits(output: LfmOutput) -> Tensor | None:
    """Return the two logits a task (B, T, 2) of the joint loss, None without a second head."""
    if output.base_logits is None:
        return None
    return torch.stack([output.base_logits, output.base_logits + output.logits], dim=2)


class Scorer:
    """Scores with one model; ``extras`` name the columns of ``full`` after the tasks' logits."""

    def __init__(
        self,
        sharded: Sharded,
        objective: Objective,
        schema: Schema,
        *,
        explore: ExploreConfig,
        seed: int,
    ) -> None:
        self._sharded = sharded
        self._objective = objective
        self._explore, self._seed = explore, seed
        tasks = list(schema.tasks)
        places = [tasks.index(task) for task in schema.binary_tasks]
        self._columns = torch.tensor(places, device=sharded.ranks.device)
        model = sharded.model.module
        assert isinstance(model, Lfm)
        self._model = model
        self.gates = GateMass(model, device=sharded.ranks.device)
        """Of the rows scored so far."""
        kinds = ("variance", "score") if model.observes else ()
        self.extras = [f"{kind}_{task}" for kind in kinds for task in schema.binary_tasks]

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits (B, T) of the binary tasks."""
        return self._logits(self._output(batch), batch)

    def full(self, batch: Batch) -> Tensor:
        """Return the logits and, for heads with a variance, it and the ranking scores (B, T + X).

        Only the ranking score is explored; what is charged or reported comes from the logit.
        """
        output = self._output(batch)
        logits_BT = self._logits(output, batch)
        variance = self._model.variance(output)
        if variance is None:
            return logits_BT
        variance_BT = variance[:, self._columns]
        noise_BT = row_noise(batch, columns=logits_BT.shape[1], seed=self._seed)
        scores_BT = ranking_scores(logits_BT, variance_BT, config=self._explore, noise_N=noise_BT)
        return torch.cat([logits_BT, variance_BT, scores_BT], dim=1)

    def _output(self, batch: Batch) -> LfmOutput:
        output = self._sharded.model(batch)
        self.gates.update(output, batch.valid)
        return output

    def _logits(self, output: LfmOutput, batch: Batch) -> Tensor:
        correction_B = self._objective.correction(batch)
        return output.logits[:, self._columns] + correction_B.unsqueeze(1)
