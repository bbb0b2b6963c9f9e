"""Logits, variances and scores to rank by, as the prequential pass writes them."""

from types import SimpleNamespace

import pytest
import torch

from lfm4ads.model.config import HeadConfig, LfmConfig
from lfm4ads.model.lfm import Lfm
from lfm4ads.train.explore import ExploreConfig
from lfm4ads.train.objective import LossConfig, Objective
from lfm4ads.train.scorer import Scorer, joint_logits
from lfm4ads.train.weights import RepeatConfig, take_survey
from tests.batches import one_rank, take
from tests.plain import unshard

TASKS = ("click", "long_view", "conversion")


class Alone:
    """A model on one process that is called as a sharded one is."""

    def __init__(self, module):
        self.module = module.eval()

    def __call__(self, batch):
        return self.module(batch)


def model_of(schema, **heads):
    return unshard(Lfm(schema, LfmConfig(heads=HeadConfig(**heads))), seed=1)


def scorer_of(model, schema, *, loss=None, survey=None, seed=3, **explore):
    objective = Objective(loss or LossConfig(), schema=schema, ranks=one_rank(), survey=survey)
    sharded = SimpleNamespace(model=Alone(model), ranks=one_rank())
    return Scorer(sharded, objective, schema, explore=ExploreConfig(**explore), seed=seed)


@pytest.fixture
def sngp(schema):
    return model_of(schema, kind="sngp", features=32)


@torch.no_grad()
def test_heads_without_a_variance_give_logits_alone(schema, batches):
    model = model_of(schema)
    scorer = scorer_of(model, schema)
    assert scorer.extras == []
    wanted = model(batches[0]).logits
    assert torch.equal(scorer.logits(batches[0]), wanted)
    assert torch.equal(scorer.full(batches[0]), wanted)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["greedy", "ucb", "thompson"])
def test_columns_are_logits_variances_and_scores_by_task(schema, batches, sngp, kind):
    scorer = scorer_of(sngp, schema, kind=kind, temperature=2.0)
    assert scorer.extras == [f"{what}_{task}" for what in ("variance", "score") for task in TASKS]
    output = sngp(batches[0])
    logits, variance, score = scorer.full(batches[0]).split(3, dim=1)
    assert torch.equal(logits, output.logits)
    assert torch.equal(scorer.logits(batches[0]), output.logits)
    assert torch.equal(variance, sngp.variance(output))
    match kind:
        case "greedy":
            assert torch.equal(score, logits)
        case "ucb":
            assert torch.equal(score, logits + 2.0 * variance.sqrt())
        case "thompson":
            draws = (score - logits) / (2.0 * variance.sqrt())
            assert draws.abs().max() < 5
            assert 0.8 < draws.std() < 1.2


@torch.no_grad()
def test_draws_are_those_of_the_row_and_the_seed(schema, batches, sngp):
    def scores(seed, batch):
        return scorer_of(sngp, schema, kind="thompson", seed=seed).full(batch)[:, -3:]

    first = scores(3, batches[0])
    assert torch.equal(scores(3, batches[0]), first)
    torch.testing.assert_close(scores(3, take(batches[0], [5, 2])), first[[5, 2]])
    assert not torch.equal(scores(4, batches[0]), first)


@torch.no_grad()
def test_logits_are_corrected_for_weights_that_depend_on_the_label(schema, batches, sngp):
    repeat = RepeatConfig(feature="price", negatives_only=True)
    survey = take_survey(batches, schema=schema, repeat=repeat, ranks=one_rank())
    loss = LossConfig(repeat=repeat)
    scorer = scorer_of(sngp, schema, loss=loss, survey=survey, kind="ucb")
    objective = Objective(loss, schema=schema, ranks=one_rank(), survey=survey)
    correction = objective.correction(batches[0]).unsqueeze(1)
    assert correction.abs().max() > 0.1
    wanted = sngp(batches[0]).logits + correction
    logits, variance, score = scorer.full(batches[0]).split(3, dim=1)
    assert torch.equal(logits, wanted)
    assert torch.equal(scorer.logits(batches[0]), wanted)
    assert torch.equal(score, wanted + variance.sqrt())


@torch.no_grad()
def test_two_logits_of_the_joint_loss_differ_by_the_logit(schema, batches):
    output = model_of(schema, joint=True)(batches[0])
    pairs = joint_logits(output)
    assert pairs.shape == (len(batches[0]), 3, 2)
    torch.testing.assert_close(pairs[..., 1] - pairs[..., 0], output.logits)
    assert torch.equal(pairs[..., 0], output.base_logits)
    assert joint_logits(model_of(schema)(batches[0])) is None
