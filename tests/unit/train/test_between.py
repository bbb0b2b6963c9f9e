"""Weights of tasks along runs on one rank: the papers' steps, state, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lfm4ads.core.config import load_config
from lfm4ads.core.errors import UserError
from lfm4ads.core.log import MetricsLog
from lfm4ads.model.config import LfmConfig, MultitaskConfig
from lfm4ads.model.lfm import Lfm
from lfm4ads.model.multitask import expand_multitask
from lfm4ads.nn.tables import looked_up
from lfm4ads.stages.pretrain import Config
from lfm4ads.train.between import Between, BetweenConfig, TaskLosses, task_gram
from lfm4ads.train.objective import LossConfig, Objective
from lfm4ads.train.tradeoffs import draw_orders
from tests.batches import one_rank
from tests.multiproc.jobs import MODEL
from tests.plain import unshard
from tests.unit.train.test_tradeoffs import projected

TASKS = ("click", "long_view", "conversion")
KINDS = pytest.mark.parametrize("kind", ["uncertainty", "gradnorm", "pcgrad"])
LABELS = torch.tensor([40.0, 10.0, 25.0], dtype=torch.float64)
RATE, STEP_SIZE = 0.03, 2e-3


def make(kind, **options):
    config = BetweenConfig(kind=kind, rate=RATE, **options)
    return Between(config, tasks=TASKS, ranks=one_rank())


class Toy:
    """Three quadratic tasks of unequal size and pace on one shared vector, in float64."""

    def __init__(self):
        rng = np.random.default_rng(3)
        self.shared = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        self.targets = torch.tensor(rng.standard_normal((3, 4)))
        self.scales = torch.tensor([1.0, 0.05, 4.0], dtype=torch.float64)

    def losses(self):
        return self.scales * (self.shared - self.targets).square().mean(1) * LABELS

    def learn(self, loss):
        (gradient,) = torch.autograd.grad(loss, self.shared)
        with torch.no_grad():
            self.shared -= STEP_SIZE * gradient

    def step(self, between, *, step, labels=LABELS):
        parts = TaskLosses(losses_T=self.losses() * (labels > 0), labels_T=labels)
        loss = between.join(parts, looked=lambda: [self.shared], step=step)
        self.learn(loss)
        return loss.item()


def value_of(between):
    return np.array(between.state()["value_T"])


def test_gradnorm_takes_the_papers_steps():
    ours, theirs, between = Toy(), Toy(), make("gradnorm", alpha=0.7)
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    adam, first = torch.optim.Adam([weight], lr=RATE), None
    for step in range(40):
        losses = theirs.losses()
        first = losses.detach() if first is None else first
        size = torch.stack(
            [
                torch.autograd.grad(w * loss, theirs.shared, create_graph=True)[0].norm()
                for w, loss in zip(weight, losses, strict=True)
            ]
        )
        rate = (losses / first).detach()
        target = (size.mean() * (rate / rate.mean()) ** 0.7).detach()
        weight.grad = torch.autograd.grad((size - target).abs().sum(), weight, retain_graph=True)[0]
        theirs.learn((weight.detach() * losses).sum())
        adam.step()
        with torch.no_grad():
            weight *= 3 / weight.sum()
        ours.step(between, step=step)
        np.testing.assert_allclose(value_of(between), weight.detach().numpy(), rtol=1e-9)
    np.testing.assert_allclose(ours.shared.detach(), theirs.shared.detach(), rtol=1e-9)
    assert value_of(between)[1] > 1.3, "the task of small gradients is pulled up"


def test_uncertainties_are_learned_as_parameters_would_be():
    ours, theirs, between = Toy(), Toy(), make("uncertainty")
    variance = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([variance], lr=RATE)
    for step in range(40):
        losses = theirs.losses()
        adam.zero_grad()
        (torch.exp(-variance) * losses.detach() / LABELS + variance / 2).sum().backward()
        theirs.learn((torch.exp(-variance.detach()) * losses).sum())
        adam.step()
        ours.step(between, step=step)
        np.testing.assert_allclose(value_of(between), variance.detach().numpy(), rtol=1e-9)
    np.testing.assert_allclose(ours.shared.detach(), theirs.shared.detach(), rtol=1e-9)


def test_the_value_is_the_plain_sum_and_the_gradient_the_weighted_one():
    toy, between = Toy(), make("pcgrad")
    plain = toy.losses()
    parts = TaskLosses(losses_T=plain, labels_T=LABELS)
    joint = between.join(parts, looked=lambda: [toy.shared], step=4)
    assert joint.item() == plain.sum().item()
    gradients = [torch.autograd.grad(one, toy.shared, retain_graph=True)[0] for one in plain]
    orders = draw_orders(3, step=4)
    wanted = projected([one.numpy() for one in gradients], orders=orders)
    (found,) = torch.autograd.grad(joint, toy.shared)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert not np.allclose(wanted, sum(gradients))


def test_under_conflict_the_sum_unlearns_the_small_task_and_pcgrad_learns_it():
    toy, between = Toy(), make("pcgrad")
    toy.targets = torch.tensor([[1.0, 0, 0, 0], [-1.0, 1.0, 0, 0], [1.0, 0, 0, 0]]).double()
    parts = TaskLosses(losses_T=toy.losses(), labels_T=LABELS)
    joint = between.join(parts, looked=lambda: [toy.shared], step=0)
    of_small, of_sum, of_joint = (
        torch.autograd.grad(one, toy.shared, retain_graph=True)[0]
        for one in (parts.losses_T[1], parts.losses_T.sum(), joint)
    )
    assert of_sum @ of_small < 0
    assert of_joint @ of_small > 0
    assert of_joint @ of_sum > 0
    assert between.state()["conflicts_T"] == [1, 2, 1]


@KINDS
def test_a_task_without_a_label_keeps_its_state_and_the_others_move(kind):
    toy, between = Toy(), make(kind)
    toy.step(between, step=0)
    before = between.state()
    without = LABELS * torch.tensor([1.0, 0.0, 1.0])
    for step in range(1, 4):
        toy.step(between, step=step, labels=without)
    after = between.state()
    for name, former in before.items():
        assert after[name][1] == former[1], name
    assert after["steps_T"] == [4, 1, 4]
    if kind != "pcgrad":
        assert after["value_T"][0] != before["value_T"][0]
    if kind == "gradnorm":
        assert sum(after["value_T"]) == pytest.approx(3)


@KINDS
def test_going_on_from_json_is_going_on(kind):
    toys, runs = (Toy(), Toy()), [make(kind), make(kind)]
    for step in range(12):
        if step == 5:
            runs[1], former = make(kind), runs[1]
            runs[1].load(json.loads(json.dumps(former.state())))
        for toy, between in zip(toys, runs, strict=True):
            toy.step(between, step=step)
    assert runs[0].state() == runs[1].state()
    assert torch.equal(toys[0].shared, toys[1].shared)
    fresh = make(kind)
    fresh.load(None)
    assert fresh.state() != runs[0].state()


def test_state_is_no_view_of_what_goes_on():
    toy, between = Toy(), make("gradnorm")
    state = between.state()
    kept = json.dumps(state)
    toy.step(between, step=0)
    assert json.dumps(state) == kept


@KINDS
def test_a_loss_that_is_not_finite_moves_nothing(kind):
    toy, between = Toy(), make(kind)
    toy.step(between, step=0)
    before = between.state()
    losses = toy.losses() * torch.tensor([1.0, float("inf"), 1.0])
    parts = TaskLosses(losses_T=losses, labels_T=LABELS)
    joint = between.join(parts, looked=lambda: [toy.shared], step=1)
    assert not torch.isfinite(joint)
    assert between.state() == before


def test_gradnorms_weights_stay_positive():
    toy, between = (
        Toy(),
        Between(BetweenConfig(kind="gradnorm", rate=0.9), tasks=TASKS, ranks=one_rank()),
    )
    for step in range(30):
        toy.step(between, step=step)
        assert value_of(between).min() > 0
        assert value_of(between).sum() == pytest.approx(3)


def test_a_day_is_logged_and_the_next_begins_anew(tmp_path):
    toy, between = Toy(), make("pcgrad")
    metrics = MetricsLog(tmp_path / "metrics.jsonl", ranks=one_rank())
    used = []
    for step in range(6):
        before = np.array(between.state()["weight_T"])
        toy.step(between, step=step)
        used.append(np.array(between.state()["weight_T"]) - before)
    between.log_day(metrics, step=6)
    between.log_day(metrics, step=7)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = {line["name"]: line["value"] for line in lines}
    assert len(lines) == 4
    for task, wanted in zip(TASKS, np.mean(used, axis=0), strict=True):
        assert found[f"weight/{task}"] == pytest.approx(wanted)
    assert 0 < found["task_conflicts"] <= 1
    assert {line["step"] for line in lines} == {6}


def test_shares_of_conflicts_count_pairs():
    shared = torch.ones(2, dtype=torch.float64, requires_grad=True)
    between = make("pcgrad")
    losses = torch.stack([shared.sum(), -shared.sum(), shared[0]])
    parts = TaskLosses(losses_T=losses, labels_T=LABELS)
    between.join(parts, looked=lambda: [shared], step=0)
    assert between.state()["pairs_T"] == [2, 2, 2]
    assert between.state()["conflicts_T"] == [1, 2, 1]


NETWORKS = {
    "shared_bottom": MODEL,
    "stem": LfmConfig(multitask=MultitaskConfig(kind="stem", hidden=(16,))),
    "esmm": LfmConfig(multitask=MultitaskConfig(kind="esmm", hidden=(16,))),
}


@pytest.fixture(params=NETWORKS)
def model(schema, request):
    torch.manual_seed(1)
    config = expand_multitask(NETWORKS[request.param], tasks=list(schema.tasks))
    return unshard(Lfm(schema, config), seed=3)


def objective_for(schema, kind="none", **options):
    loss = LossConfig(between=BetweenConfig(kind=kind), **options)
    return Objective(loss, schema=schema, ranks=one_rank())


def opposed(batch):
    """Return the batch with another second task: the opposite of the first, where it is known."""
    labels, masks = batch.labels.clone(), batch.masks.clone()
    labels[:, 1], masks[:, 1] = 1 - labels[:, 0], masks[:, 0] * (torch.arange(len(batch)) % 2)
    return replace(batch, labels=labels, masks=masks)


def test_through_a_model_the_rows_gradient_is_the_projected_one(model, schema, batches):
    batch = opposed(batches[0])
    logits, step = model(batch).logits, 11
    looked = looked_up(model)
    assert sum(one.numel() for one in looked) > 64 * 8
    parts = objective_for(schema).by_task(logits, batch, step=step)
    gradients = [
        torch.cat([part.flatten() for part in torch.autograd.grad(one, looked, retain_graph=True)])
        for one in parts.losses_T
    ]
    objective = objective_for(schema, "pcgrad")
    joint = objective(logits, batch, step=step, looked=lambda: looked_up(model))
    found = torch.cat([part.flatten() for part in torch.autograd.grad(joint, looked)])
    orders = draw_orders(3, step=step)
    wanted = projected([one.numpy().astype(np.float64) for one in gradients], orders=orders)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert not np.allclose(found, sum(gradients), rtol=1e-2, atol=1e-4)
    assert sum(objective.between.state()["conflicts_T"]) > 0


def test_comparing_gradients_leaves_no_trace_in_the_model(model, schema, batches):
    losses_T = objective_for(schema).by_task(model(batches[0]).logits, batches[0], step=0).losses_T
    gram = task_gram(losses_T, looked=looked_up(model))
    assert (gram.diagonal() > 0).all()
    torch.testing.assert_close(gram, gram.T)
    assert all(parameter.grad is None for parameter in model.parameters())
    losses_T.sum().backward()


@pytest.mark.parametrize("rank", ["none", "pair", "list_ce"])
def test_losses_by_task_add_up_to_the_loss(schema, batches, rank):
    objective = objective_for(schema, rank=rank, alpha=0.4, task_weights={"click": 3.0})
    logits = torch.randn(64, 3, requires_grad=True)
    parts = objective.by_task(logits, batches[0], step=2)
    plain = objective(logits, batches[0], step=2)
    assert parts.losses_T.sum().item() == pytest.approx(plain.item(), rel=1e-6)
    counts = batches[0].masks.sum(0) * torch.tensor([3.0, 1.0, 1.0])
    torch.testing.assert_close(parts.labels_T, counts)
    for task, loss in enumerate(parts.losses_T):
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert gradient[:, task].any()
        assert not gradient[:, [other for other in range(3) if other != task]].any()


def test_a_static_weight_is_a_factor_the_uncertainty_does_not_undo(schema, batches):
    values, gradients = [], []
    for weights in ({}, {"click": 3.0}):
        objective = objective_for(schema, "uncertainty", task_weights=weights)
        logits = torch.linspace(-2, 2, 192).reshape(64, 3).requires_grad_()
        objective(logits, batches[0], step=0).backward()
        values.append(value_of(objective.between))
        gradients.append(logits.grad[:, 0])
    np.testing.assert_allclose(values[0], values[1], rtol=1e-6)
    torch.testing.assert_close(3 * gradients[0], gradients[1])


def test_a_model_without_tables_is_refused(schema, batches):
    logits = torch.randn(64, 3, requires_grad=True)
    objective_for(schema, "uncertainty")(logits, batches[0], step=0)
    with pytest.raises(UserError, match="the model reads none; set it to none or uncertainty"):
        objective_for(schema, "gradnorm")(logits, batches[0], step=0)


@KINDS
def test_one_task_is_refused(schema, kind):
    alone = replace(schema, tasks={"click": schema.tasks["click"]})
    with pytest.raises(UserError, match=rf"kind is {kind}, but the only task is click; set it to"):
        objective_for(alone, kind)
    objective_for(alone)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["kind=cagrad"], "cagrad"),
        (["kind=gradnorm", "rate=0"], "rate must be positive and finite, got 0"),
        (["kind=gradnorm", "alpha=-1"], "alpha must be at least 0 and finite, got -1"),
        (["kind=pcgrad", "alpha=1"], "alpha is read by kind gradnorm alone, and kind is pcgrad"),
        (["kind=pcgrad", "seed=1"], "seed"),
    ],
)
def test_bad_words_are_refused_by_name(tmp_path, words, sentence):
    path = tmp_path / "run.yaml"
    path.write_text(
        "{data: a, output: b, days: {first: 20260101, base_last: 20260101, last: 20260102}}"
    )
    good = ["loss.between.kind=gradnorm", "loss.between.alpha=0.12"]
    assert load_config(Config, [str(path), *good]).loss.between.alpha == 0.12
    with pytest.raises(UserError, match=sentence):
        load_config(Config, [str(path), *(f"loss.between.{word}" for word in words)])
