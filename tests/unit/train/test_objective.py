"""The upstream loss on one rank: its parts, its weights, and rates that weights must not move."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lfm4ads.core.config import load_config
from lfm4ads.core.errors import UserError
from lfm4ads.nn.ranking import Ranked, jrc_loss, list_ce_loss, list_loss, pair_loss
from lfm4ads.train.losses import masked_bce
from lfm4ads.train.objective import LossConfig, Objective
from lfm4ads.train.weights import RepeatConfig, take_survey
from tests.batches import one_rank, pad, take
from tests.unit.train.test_weights import with_number

TASKS = 3
TERMS = {"pair": pair_loss, "list": list_loss, "list_ce": list_ce_loss, "jrc": jrc_loss}
RANKS = pytest.mark.parametrize("rank", list(TERMS))


def make(schema, batches=(), **options):
    config = LossConfig(**options)
    survey = None
    if config.needs_survey:
        survey = take_survey(batches, schema=schema, repeat=config.repeat, ranks=one_rank())
    return Objective(config, schema=schema, ranks=one_rank(), survey=survey)


def loss_of(objective, z, batch, *, step=0):
    """``z`` is (B, T), or (B, T, 2) under JRC."""
    if z.dim() == 2:
        return objective(z, batch, step=step)
    return objective(z[..., 1] - z[..., 0], batch, step=step, pairs_BT2=z)


def logits_for(rank, count=64, *, grad=False):
    shape = (count, TASKS, 2) if rank == "jrc" else (count, TASKS)
    return torch.randn(shape, requires_grad=grad)


def ranking_by_tasks(z, batch, *, rank, within="scenario"):
    total = 0.0
    for task in range(TASKS):
        kept = batch.masks[:, task] > 0
        group, ones = batch.scenario[kept] * (within == "scenario"), torch.ones(int(kept.sum()))
        rows = Ranked(
            positive_N=batch.labels[kept, task] > 0,
            group_N=group,
            weight_N=ones,
            num_groups=3,
            mass_G=torch.zeros(3).index_add(0, group, ones),
        )
        total += kept.sum() * TERMS[rank](z[kept, task], rows=rows)
    return total.item()


def test_the_default_is_todays_bce_to_the_last_bit(batches, schema):
    logits = torch.randn(64, TASKS)
    found = make(schema)(logits, batches[0], step=3)
    assert torch.equal(found, masked_bce(logits, batches[0]))
    assert make(schema).label_weights(batches[0]) is None
    assert not make(schema).correction(batches[0]).any()


@RANKS
@pytest.mark.parametrize("within", ["scenario", "batch"])
def test_it_is_the_mix_of_bce_and_ranking_on_the_scale_of_a_sum(batches, schema, rank, within):
    z = 2 * logits_for(rank)
    batch = batches[0]
    bce = masked_bce(z if rank != "jrc" else z[..., 1] - z[..., 0], batch).item()
    ranking = ranking_by_tasks(z, batch, rank=rank, within=within)
    for alpha in (0.0, 0.3, 1.0):
        found = loss_of(make(schema, rank=rank, alpha=alpha, within=within), z, batch)
        assert found.item() == pytest.approx(alpha * bce + (1 - alpha) * ranking, rel=1e-5)
    assert ranking != pytest.approx(bce, rel=0.01)


@RANKS
def test_padding_and_masked_labels_add_nothing(batches, schema, rank):
    objective = make(schema, rank=rank, alpha=0.2)
    z = logits_for(rank, 69, grad=True)
    padded = loss_of(objective, z, pad(batches[0], 5))
    padded.backward()
    assert padded.item() == pytest.approx(loss_of(objective, z[:64], batches[0]).item(), rel=1e-5)
    assert not z.grad[64:].any()
    assert not z.grad[:64][batches[0].masks == 0].any()
    assert z.grad[:64][batches[0].masks > 0].any()


@RANKS
def test_a_batch_of_negatives_alone_is_alpha_times_bce(batches, schema, rank):
    batch = replace(batches[0], labels=torch.zeros(64, TASKS))
    z = logits_for(rank, grad=True)
    mixed = loss_of(make(schema, rank=rank, alpha=0.7), z, batch)
    (gradient,) = torch.autograd.grad(mixed, z)
    bce = masked_bce(z if rank != "jrc" else z[..., 1] - z[..., 0], batch)
    (of_bce,) = torch.autograd.grad(bce, z)
    assert mixed.item() == pytest.approx(0.7 * bce.item())
    torch.testing.assert_close(gradient, 0.7 * of_bce)


def test_a_shift_of_all_logits_leaves_the_pairs_alone(batches, schema):
    logits = torch.randn(64, TASKS)
    for rank, same in (("pair", True), ("list", True), ("list_ce", False)):
        objective = make(schema, rank=rank, alpha=0.0)
        values = [objective(logits + c, batches[0], step=0).item() for c in (0.0, 2.5)]
        assert (values[0] == pytest.approx(values[1], rel=1e-4)) is same


def test_tasks_can_be_chosen(batches, schema):
    logits = torch.randn(64, TASKS, requires_grad=True)
    make(schema, rank="pair", alpha=0.0, tasks=("click",))(logits, batches[0], step=0).backward()
    (of_bce,) = torch.autograd.grad(masked_bce(logits, batches[0]), logits)
    assert logits.grad[:, 0].any()
    assert not torch.equal(logits.grad[:, 0], of_bce[:, 0])
    torch.testing.assert_close(logits.grad[:, 1:], of_bce[:, 1:])
    with pytest.raises(UserError, match=r"loss\.tasks names buy; binary tasks are click, lon"):
        make(schema, rank="pair", tasks=("buy",))


def test_only_binary_tasks_are_ranked_and_others_keep_their_bce(batches, schema):
    tasks = {**schema.tasks, "click": replace(schema.tasks["click"], kind="real")}
    logits = torch.randn(64, TASKS, requires_grad=True)
    make(replace(schema, tasks=tasks), rank="pair", alpha=0.0)(
        logits, batches[0], step=0
    ).backward()
    (of_bce,) = torch.autograd.grad(masked_bce(logits, batches[0]), logits)
    torch.testing.assert_close(logits.grad[:, 0], of_bce[:, 0])
    assert not torch.allclose(logits.grad[:, 1:], of_bce[:, 1:])


def test_the_cap_draws_other_negatives_every_step_and_the_same_again(batches, schema):
    objective = make(schema, rank="pair", max_negatives=4, alpha=0.0)
    logits = torch.randn(64, TASKS)
    values = [objective(logits, batches[0], step=step).item() for step in (0, 1, 2, 0)]
    assert values[0] == values[3]
    assert len(set(values)) == 3
    order = torch.randperm(64)
    moved = objective(logits[order], take(batches[0], order.tolist()), step=1)
    assert moved.item() == pytest.approx(values[1], rel=1e-5)


@RANKS
def test_a_task_weight_scales_both_parts_of_the_task(batches, schema, rank):
    z = logits_for(rank, grad=True)
    weighted = make(schema, rank=rank, alpha=0.5, task_weights={"click": 3.0, "conversion": 0.0})
    found, plain = (
        torch.autograd.grad(loss_of(one, z, batches[0]), z)[0]
        for one in (weighted, make(schema, rank=rank, alpha=0.5))
    )
    wanted = [3 * plain[:, 0], plain[:, 1], 0 * plain[:, 2]]
    torch.testing.assert_close(found, torch.stack(wanted, dim=1))


def test_a_domain_weight_scales_its_rows(batches, schema):
    logits = torch.zeros(64, TASKS, requires_grad=True)
    make(schema, domain_weights={"ads": 0.25})(logits, batches[0], step=0).backward()
    wanted = batches[0].masks * 0.5 * (1 - 0.75 * batches[0].domain.unsqueeze(1))
    torch.testing.assert_close(logits.grad.abs(), wanted)


def label_mass(objective, batches, *, domain=None, task=None):
    """Weighted labels, read off the loss: BCE of logit 0 is log 2 whatever the label."""
    total = 0.0
    for batch in batches:
        masks = batch.masks.clone()
        if domain is not None:
            masks[batch.domain != domain] = 0
        if task is not None:
            masks[:, [one for one in range(TASKS) if one != task]] = 0
        loss = objective(torch.zeros(64, TASKS), replace(batch, masks=masks), step=0)
        total += loss.item() / np.log(2)
    return total


def test_balance_makes_label_mass_equal(batches, schema):
    plain = make(schema)
    whole = label_mass(plain, batches)
    by_domain = make(schema, batches, balance="domain")
    masses = [label_mass(by_domain, batches, domain=domain) for domain in (0, 1)]
    assert masses == pytest.approx([whole / 2] * 2, rel=1e-4)
    by_task = make(schema, batches, balance="task")
    cells = [(0, 0), (0, 1), (1, 0), (1, 2)]
    masses = [label_mass(by_task, batches, domain=d, task=t) for d, t in cells]
    assert masses == pytest.approx([whole / 4] * 4, rel=1e-4)
    unequal = [label_mass(plain, batches, domain=d, task=t) for d, t in cells]
    assert max(unequal) > 1.02 * min(unequal)


def test_balance_comes_before_the_users_factors(batches, schema):
    objective = make(schema, batches, balance="domain", domain_weights={"ads": 3.0})
    content, ads = (label_mass(objective, batches, domain=domain) for domain in (0, 1))
    assert ads == pytest.approx(3 * content, rel=1e-4)


ROWS = 40_000


def exposures(batch, schema):
    """Many rows of one task whose rate falls with an input and with the exposure index."""
    x = torch.randn(ROWS)
    before = torch.randint(0, 9, (ROWS,)).float()
    rate = torch.sigmoid(0.7 * x - 0.5 * (1 + before).log() - 0.5)
    zeros = torch.zeros(ROWS, dtype=torch.int64)
    labels = torch.zeros(ROWS, TASKS)
    labels[:, 0] = (torch.rand(ROWS) < rate).float()
    masks = torch.zeros(ROWS, TASKS)
    masks[:, 0] = 1
    names = ("user", "item", "time", "domain", "scenario", "row_id")
    rows = replace(
        batch,
        labels=labels,
        masks=masks,
        numbers=torch.zeros(ROWS, batch.numbers.shape[1]),
        valid=torch.ones(ROWS, dtype=torch.bool),
        **dict.fromkeys(names, zeros),
    )
    return with_number(rows, schema, "price", before), torch.stack([x, (1 + before).log()], dim=1)


def fit(objective, batch, x_BF):
    """Return the logits (B,) of logistic regression under the objective."""
    model = nn.Linear(x_BF.shape[1], 1)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = objective(torch.cat([model(x_BF), torch.zeros(ROWS, 2)], dim=1), batch, step=0)
        (loss / ROWS).backward()
        return loss / ROWS

    optimizer.step(closure)
    return model(x_BF).detach()[:, 0]


def pcoc(logits, batch, rows=slice(None)):
    """Predicted over observed rate."""
    return (logits[rows].sigmoid().mean() / batch.labels[rows, 0].mean()).item()


def test_weights_that_depend_on_the_label_move_the_rates_and_the_correction_moves_them_back(
    batches, schema
):
    batch, x_BF = exposures(batches[0], schema)
    first, last = x_BF[:, 1] < 0.1, x_BF[:, 1] > 2.1
    repeat = RepeatConfig(feature="price", gamma=0.8, negatives_only=True)
    objective = make(schema, [batch], repeat=repeat)
    learnt = fit(objective, batch, x_BF)
    assert pcoc(learnt, batch, first) < 0.9
    assert pcoc(learnt, batch, last) > 1.3
    assert pcoc(learnt, batch) > 1.04
    corrected = learnt + objective.correction(batch)
    assert pcoc(corrected, batch) == pytest.approx(1, abs=0.02)
    for exposure in range(1, 10):
        rows = (x_BF[:, 1].exp() - exposure).abs() < 0.5
        assert pcoc(corrected, batch, rows) == pytest.approx(1, abs=0.08)


def test_weights_that_do_not_depend_on_the_label_need_no_correction(batches, schema):
    batch, x_BF = exposures(batches[0], schema)
    objective = make(schema, [batch], repeat=RepeatConfig(feature="price", gamma=0.8))
    assert not objective.correction(batch).any()
    weights = objective.label_weights(batch)
    assert weights.mean().item() == pytest.approx(1, abs=1e-4)
    assert weights.std() > 0.3
    assert pcoc(fit(objective, batch, x_BF), batch) == pytest.approx(1, abs=0.02)


def test_positives_keep_their_weight_where_only_negatives_are_reweighted(batches, schema):
    batch, _ = exposures(batches[0], schema)
    repeat = RepeatConfig(feature="price", negatives_only=True)
    weights = make(schema, [batch], repeat=repeat).label_weights(batch)[:, 0]
    positive = batch.labels[:, 0] > 0
    assert (weights[positive] == 1).all()
    assert len(weights[~positive].unique()) == 9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task_weights": {"clik": 2.0}}, "loss.task_weights names task clik, but the tasks are"),
        ({"domain_weights": {"ad": 2.0}}, "names domain ad, but the domains are content, ads;"),
        ({"repeat": RepeatConfig(feature="seen")}, "loss.repeat.feature is seen"),
    ],
)
def test_names_the_data_lacks_are_refused_on_every_rank(batches, schema, options, words):
    with pytest.raises(UserError) as caught:
        make(schema, batches, **options)
    assert words in str(caught.value)
    assert caught.value.everywhere


def test_weights_without_a_survey_are_a_bug(schema):
    with pytest.raises(ValueError, match="need a survey"):
        Objective(LossConfig(balance="task"), schema=schema, ranks=one_rank())


@pytest.mark.parametrize("rank", ["pair", "jrc"])
def test_two_logits_come_with_jrc_and_only_then(batches, schema, rank):
    z = logits_for("list" if rank == "jrc" else "jrc")
    with pytest.raises(AssertionError):
        loss_of(make(schema, rank=rank), z, batches[0])


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 1.1},
        {"max_negatives": 0},
        {"task_weights": {"click": -1.0}},
        {"domain_weights": {"ads": float("inf")}},
    ],
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=rf"loss\.{next(iter(options))}"):
        LossConfig(**options)


def test_it_is_read_from_yaml(tmp_path):
    path = tmp_path / "loss.yaml"
    path.write_text("rank: pair\ntask_weights: {click: 2}\nrepeat: {feature: seen}\n")
    config = load_config(LossConfig, [str(path), "alpha=0.7", "domain_weights.ads=0.5"])
    assert config == LossConfig(
        rank="pair",
        alpha=0.7,
        task_weights={"click": 2.0},
        domain_weights={"ads": 0.5},
        repeat=RepeatConfig(feature="seen"),
    )
