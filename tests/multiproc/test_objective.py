"""The upstream loss does not know how many ranks hold its rows, in value and in gradient."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from lfm4ads.data.schema import load_schema
from lfm4ads.train.objective import LossConfig, Objective
from lfm4ads.train.weights import RepeatConfig, take_survey
from tests.batches import one_rank, read_batches
from tests.gloo import run_ranks
from tests.worlds import write_tiny

pytestmark = pytest.mark.multiproc
ROWS = 200
USERS = 40
KINDS = {
    "pair": LossConfig(rank="pair", alpha=0.3),
    "whole": LossConfig(rank="pair", alpha=0.3, within="batch"),
    "capped": LossConfig(rank="pair", alpha=0.3, max_negatives=5),
    "list": LossConfig(rank="list", alpha=0.3),
    "list_ce": LossConfig(rank="list_ce", alpha=0.3),
    "jrc": LossConfig(rank="jrc", alpha=0.3),
    "weighted": LossConfig(
        rank="pair",
        alpha=0.3,
        balance="task",
        task_weights={"click": 2.0},
        domain_weights={"ads": 0.5},
        repeat=RepeatConfig(feature="price", negatives_only=True),
    ),
    "bce": LossConfig(balance="domain"),
}


def losses(objective, batches, table):
    """Return this rank's loss of every step; a table (users, tasks, 2) is all there is to learn."""
    values = []
    for step, batch in enumerate(batches):
        z_BT2 = table[batch.user % USERS] * (1 + (batch.item % 7).view(-1, 1, 1))
        jrc = {"pairs_BT2": z_BT2} if objective._config.needs_pairs else {}
        values.append(objective(z_BT2[..., 1] - z_BT2[..., 0], batch, step=step, **jrc))
    return torch.stack(values)


def check_all_gather(ranks):
    for shape in ((3,), (2, 4), (0, 2)):
        for dtype in (torch.float32, torch.float64, torch.int64):
            mine = torch.full(shape, ranks.rank, dtype=dtype, requires_grad=dtype.is_floating_point)
            joined = ranks.all_gather(mine)
            assert joined.dtype == dtype
            assert not joined.requires_grad
            wanted = [torch.full(shape, one, dtype=dtype) for one in range(ranks.world)]
            assert torch.equal(joined, torch.cat(wanted))
    strided = torch.arange(6).reshape(2, 3).T + 10 * ranks.rank
    wanted = torch.cat([torch.arange(6).reshape(2, 3).T + 10 * one for one in range(ranks.world)])
    assert torch.equal(ranks.all_gather(strided), wanted)


def body(ranks, folder):
    check_all_gather(ranks)
    schema = load_schema(folder)
    batches = read_batches(folder, ranks=ranks)
    found, surveys = {}, []
    jobs = {name: (config, ranks) for name, config in KINDS.items()}
    jobs["own rows"] = KINDS["pair"], one_rank()
    for name, (config, members) in jobs.items():
        survey = take_survey(batches, schema=schema, repeat=config.repeat, ranks=ranks)
        objective = Objective(config, schema=schema, ranks=members, survey=survey)
        surveys.append(survey.to_dict())
        torch.manual_seed(5)
        table = torch.randn(USERS, 3, 2, dtype=torch.float64, requires_grad=True)
        values = losses(objective, batches, table)
        values.sum().backward()
        found[name] = ranks.sum(values.detach().numpy()), ranks.sum(table.grad.numpy())
    return found, surveys[list(KINDS).index("weighted")]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    folder = write_tiny(tmp_path_factory.mktemp("objective") / "data", days=1, rows=ROWS)
    return {world: run_ranks(body, world, folder) for world in (1, 2, 4)}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("world", [2, 4])
def test_value_and_gradient_do_not_depend_on_the_number_of_ranks(jobs, world, name):
    ((found, _),) = jobs[1]
    value, gradient = found[name]
    assert value.shape == (4,)
    assert (value > 0).all()
    for other, _ in jobs[world]:
        np.testing.assert_allclose(other[name][0], value, rtol=1e-6)
        np.testing.assert_allclose(other[name][1], gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("world", [2, 4])
def test_pairs_of_a_ranks_own_rows_would_be_another_loss(jobs, world):
    ((found, _),) = jobs[1]
    own, _ = jobs[world][0]
    assert np.abs(own["own rows"][1] - found["pair"][1]).max() > 1e-2
    np.testing.assert_array_equal(found["own rows"][1], found["pair"][1])


def test_the_kinds_differ(jobs):
    ((found, _),) = jobs[1]
    for one, other in pairwise(KINDS):
        assert np.abs(found[one][1] - found[other][1]).max() > 1e-2


@pytest.mark.parametrize("world", [2, 4])
def test_a_survey_does_not_depend_on_the_number_of_ranks(jobs, world):
    ((_, alone),) = jobs[1]
    assert alone["rows"] == ROWS
    assert 0.1 < alone["repeat_mean"] < 0.9
    for _, other in jobs[world]:
        assert other == {**alone, "repeat_mean": pytest.approx(alone["repeat_mean"], rel=1e-6)}
