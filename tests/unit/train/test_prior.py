"""The base rate a downstream model starts from, on rows handed out to any number of ranks."""

import numpy as np
import pytest
import torch

from lfm4ads.nn.heads import ScenarioHeads
from lfm4ads.train.prior import fit_prior
from tests.batches import one_rank


class Day:
    """A reader of one day that is in memory."""

    def __init__(self, batches):
        self.batches = batches

    def day(self, day):
        assert day == 20260101
        return iter(self.batches)


def test_priors_are_log_odds_drawn_to_the_rate_of_all_scenarios(batches):
    heads = ScenarioHeads(4, scenarios=3, tasks=2)
    shared = heads.shared.detach().clone()
    fit_prior(heads, Day(batches), day=20260101, tasks=[2, 0], ranks=one_rank())
    for position, column in enumerate((2, 0)):
        masks, labels, scenario = (
            np.concatenate([getattr(batch, name).numpy() for batch in batches])
            for name in ("masks", "labels", "scenario")
        )
        labelled = masks[:, column] > 0
        overall = (labels[labelled, column].sum() + 1) / (labelled.sum() + 2)
        for index in range(3):
            own = labelled & (scenario == index)
            rate = (labels[own, column].sum() + 100 * overall) / (own.sum() + 100)
            wanted = np.log(rate / (1 - rate))
            assert heads.bias[index, position].item() == pytest.approx(wanted, rel=1e-5)
    assert torch.equal(heads.shared.detach(), shared)
    assert not heads.delta.any()
