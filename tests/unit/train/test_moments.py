"""What is fitted on the first training day, on rows handed out to any number of ranks."""

import numpy as np
import pytest
import torch

from lfm4ads.nn.heads import ScenarioHeads
from lfm4ads.nn.standardise import Standardiser
from lfm4ads.train.moments import fit_prior, fit_standardiser
from tests.batches import one_rank

DIMS = {"user.ur": 3, "item.ir": 2}


class Day:
    """A reader of one day that is in memory."""

    def __init__(self, batches):
        self.batches = batches

    def day(self, day):
        assert day == 20260101
        return iter(self.batches)


@pytest.fixture
def fed(batches):
    """Batches with representations, far from 0 and on unequal scales; some rows have none."""
    generator = np.random.default_rng(0)
    for batch in batches:
        for name, dim in DIMS.items():
            values = generator.normal(100, np.arange(dim) + 1.0, (len(batch), dim))
            present = (generator.random(len(batch)) < 0.6) & batch.valid.numpy()
            batch.reps[name] = torch.from_numpy(values * present[:, None]).float()
            batch.present[name] = torch.from_numpy(present).float()
    return batches


def test_moments_are_those_of_rows_that_have_the_representation(fed):
    standardiser = Standardiser(DIMS)
    fit_standardiser(standardiser, Day(fed), day=20260101, ranks=one_rank())
    for name in DIMS:
        values = np.concatenate(
            [batch.reps[name][batch.present[name] > 0].double().numpy() for batch in fed]
        )
        buffer = name.replace(".", "_")
        found = [standardiser.get_buffer(f"{kind}_{buffer}").numpy() for kind in ("mean", "std")]
        np.testing.assert_allclose(found[0], values.mean(0), rtol=1e-6)
        np.testing.assert_allclose(found[1], values.std(0), rtol=1e-4)


def test_a_representation_nobody_has_passes_through(fed):
    for batch in fed:
        batch.present["item.ir"].zero_()
    standardiser = Standardiser(DIMS)
    fit_standardiser(standardiser, Day(fed), day=20260101, ranks=one_rank())
    assert standardiser.get_buffer("mean_item_ir").tolist() == [0, 0]
    assert standardiser.get_buffer("std_item_ir").tolist() == [1, 1]


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
