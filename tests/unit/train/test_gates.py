"""Gate mass: whom the tasks read, over scored rows."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lfm4ads.model.config import LfmConfig, MultitaskConfig
from lfm4ads.model.lfm import Lfm
from lfm4ads.model.multitask import expand_multitask
from lfm4ads.nn.branch import MixConfig
from lfm4ads.nn.experts import ExpertConfig, MergeConfig
from lfm4ads.train.explore import ExploreConfig
from lfm4ads.train.gates import GateMass
from lfm4ads.train.objective import LossConfig, Objective
from lfm4ads.train.scorer import Scorer
from tests.batches import one_rank
from tests.plain import unshard

TASKS = ("click", "long_view", "conversion")


def model_of(schema, kind, **words):
    config = LfmConfig(multitask=MultitaskConfig(kind=kind, shared_experts=2, **words))
    model = unshard(Lfm(schema, expand_multitask(config, tasks=TASKS)), seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def test_a_tasks_shares_are_the_mean_over_valid_rows_by_owner(schema, batches):
    model = model_of(schema, "stem", task_experts=2)
    mass = GateMass(model, device=torch.device("cpu"))
    weights, kept = [], []
    for batch in batches:
        valid = batch.valid.clone()
        valid[::3] = 0
        output = model(batch)
        mass.update(output, valid)
        weights.append(output.weights)
        kept.append(valid > 0)
    weight_BSM = torch.cat(weights)[torch.cat(kept)].double()
    found = mass.reduce(one_rank())
    assert list(found) == list(TASKS)
    for at, task in enumerate(TASKS):
        assert list(found[task]) == [*TASKS, "shared"], "two experts each"
        wanted = weight_BSM[:, at].reshape(-1, 4, 2).sum(2).mean(0)
        torch.testing.assert_close(torch.tensor(list(found[task].values())).double(), wanted)
        assert sum(found[task].values()) == pytest.approx(1.0)


def test_experts_without_owners_are_told_by_set_or_by_name(schema):
    cpu = torch.device("cpu")
    assert GateMass(model_of(schema, "mmoe"), device=cpu)._groups == ["expert_1", "expert_2"]
    assert GateMass(model_of(schema, "me_mmoe"), device=cpu)._groups == ["set_1", "set_2"]
    assert GateMass(model_of(schema, "shared_bottom"), device=cpu).reduce(one_rank()) == {}
    experts = {"a": ExpertConfig(), "b": ExpertConfig()}
    mix = MixConfig(experts=experts, merge=MergeConfig(kind="gate"))
    plain = unshard(Lfm(schema, LfmConfig(mix=mix)), seed=1)
    assert list(GateMass(plain, device=cpu).reduce(one_rank())) == ["all"]


@torch.no_grad()
def test_a_scorer_counts_what_it_scores(schema, batches):
    model = model_of(schema, "mmoe")
    ranks = one_rank()
    sharded = SimpleNamespace(model=_called(model), ranks=ranks)
    objective = Objective(LossConfig(), schema=schema, ranks=ranks)
    scorer = Scorer(sharded, objective, schema, explore=ExploreConfig(), seed=0)
    scorer.logits(batches[0])
    scorer.full(replace(batches[1]))
    wanted = GateMass(model, device=torch.device("cpu"))
    for batch in batches[:2]:
        wanted.update(model(batch), batch.valid)
    assert scorer.gates.reduce(ranks) == wanted.reduce(ranks)


def _called(model):
    class Called:
        module = model

        def __call__(self, batch):
            return model(batch)

    return Called()
