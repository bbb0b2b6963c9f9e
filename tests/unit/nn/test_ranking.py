"""Ranking terms against double loops in float64, and what the paper says of their gradients."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lfm4ads.data.hashing import mix64
from lfm4ads.nn.ranking import (
    Ranked,
    cap_negatives,
    hash_rows,
    jrc_loss,
    list_ce_loss,
    list_loss,
    pair_loss,
)

GROUPS = 4


def make_rows(positive, *, group=None, weight=None):
    positive = torch.as_tensor(positive, dtype=torch.bool)
    count = len(positive)
    group = torch.zeros(count, dtype=torch.int64) if group is None else torch.as_tensor(group)
    weight = torch.ones(count, dtype=torch.float64) if weight is None else weight
    return Ranked(
        positive_N=positive,
        group_N=group,
        weight_N=weight,
        num_groups=GROUPS,
        mass_G=torch.zeros(GROUPS, dtype=torch.float64).index_add(0, group, weight),
    )


def by_groups(mean, rows):
    """``mean`` of a group's rows, weighted by the groups' labels; a group of one class adds 0."""
    data = columns(rows)
    masses = {g: sum(w for _, other, w in data if other == g) for _, g, _ in data}
    total = sum(mass * mean(group) for group, mass in masses.items() if group in mixed(data))
    return total / sum(masses.values())


def drawn(count=40, *, rate=0.4):
    """Rows of three groups; group 2 has negatives only, group 3 does not occur."""
    group = torch.randint(0, 3, (count,))
    positive = (torch.rand(count) < rate) & (group < 2)
    weight = torch.rand(count, dtype=torch.float64) + 0.5
    return make_rows(positive, group=group, weight=weight)


def scores(count, *, width=None):
    shape = (count,) if width is None else (count, width)
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def columns(rows):
    lists = (rows.positive_N.tolist(), rows.group_N.tolist(), rows.weight_N.tolist())
    return list(zip(*lists, strict=True))


def pair_by_loops(z, rows):
    def mean(group):
        total = mass = 0.0
        data = [(i, *one) for i, one in enumerate(columns(rows)) if one[1] == group]
        for i, up, _, weight in data:
            for j, other_up, _, other_weight in data:
                if up and not other_up:
                    rate = 1 / (1 + math.exp(-(z[i].item() - z[j].item())))
                    total -= weight * other_weight * math.log(rate)
                    mass += weight * other_weight
        return total / mass

    return by_groups(mean, rows)


def mixed(data):
    """Groups of both classes."""
    positive, negative = ({g for up, g, _ in data if up == wanted} for wanted in (True, False))
    return positive & negative


def list_by_loops(value, rows):
    """``value`` stands where e^z does in a softmax."""

    def mean(group):
        data = [(i, *one) for i, one in enumerate(columns(rows)) if one[1] == group]
        whole = sum(w * value[j].item() for j, _, _, w in data)
        terms = [(-w * math.log(value[i].item() / whole), w) for i, up, _, w in data if up]
        return sum(term for term, _ in terms) / sum(w for _, w in terms)

    return by_groups(mean, rows)


def jrc_by_loops(z, rows):
    def mean(group):
        data = [(i, *one) for i, one in enumerate(columns(rows)) if one[1] == group]
        total = 0.0
        for i, up, _, weight in data:
            c = int(up)
            whole = sum(w * math.exp(z[j, c].item()) for j, _, _, w in data)
            total -= weight * math.log(math.exp(z[i, c].item()) / whole)
        return total / sum(w for _, _, _, w in data)

    return by_groups(mean, rows)


def test_pairs_are_a_double_loop():
    rows = drawn()
    z = scores(40)
    assert pair_loss(z, rows=rows).item() == pytest.approx(pair_by_loops(z, rows), rel=1e-12)


def test_lists_are_loops():
    rows = drawn()
    z = scores(40)
    wanted = list_by_loops(z.exp(), rows)
    assert list_loss(z, rows=rows).item() == pytest.approx(wanted, rel=1e-12)
    wanted = list_by_loops(z.sigmoid(), rows)
    assert list_ce_loss(z, rows=rows).item() == pytest.approx(wanted, rel=1e-12)


def test_jrc_is_loops():
    rows = drawn()
    z = scores(40, width=2)
    assert jrc_loss(z, rows=rows).item() == pytest.approx(jrc_by_loops(z, rows), rel=1e-12)


LOSSES = pytest.mark.parametrize("loss", [pair_loss, list_loss, list_ce_loss, jrc_loss])


def scores_of(loss, count):
    return scores(count, width=2 if loss is jrc_loss else None)


@LOSSES
def test_gradients_are_those_of_finite_differences(loss):
    rows = drawn(12, rate=0.5)
    assert torch.autograd.gradcheck(lambda z: loss(z, rows=rows), (scores_of(loss, 12),))


@LOSSES
def test_a_weight_of_two_is_the_row_twice(loss):
    rows = drawn()
    twice = torch.cat([torch.arange(40), torch.arange(10)])
    weight = torch.ones(40, dtype=torch.float64)
    weight[:10] = 2
    weighted = make_rows(rows.positive_N, group=rows.group_N, weight=weight)
    plain = make_rows(rows.positive_N[twice], group=rows.group_N[twice])
    z = scores_of(loss, 40)
    assert loss(z, rows=weighted).item() == pytest.approx(loss(z[twice], rows=plain).item())
    assert loss(z, rows=weighted).item() != pytest.approx(
        loss(z, rows=make_rows(rows.positive_N, group=rows.group_N)).item()
    )


@LOSSES
def test_groups_are_never_compared(loss):
    """Moving one group's scores changes nothing that the other group is told."""
    rows = make_rows([1, 0, 1, 0, 0], group=[0, 0, 1, 1, 1])
    z = scores_of(loss, 5)
    before = torch.autograd.grad(loss(z, rows=rows), z)[0]
    other = z.detach().clone()
    other[2:] += torch.randn_like(other[2:])
    other.requires_grad_()
    after = torch.autograd.grad(loss(other, rows=rows), other)[0]
    assert torch.allclose(before[:2], after[:2])
    assert not torch.allclose(before[2:], after[2:])
    one = make_rows([1, 0, 1, 0, 0])
    assert loss(z, rows=one).item() != pytest.approx(loss(z, rows=rows).item())


@LOSSES
@pytest.mark.parametrize("positive", [[0, 0, 0], [1, 1, 1], []], ids=["none", "all", "no rows"])
def test_one_class_alone_is_zero_with_zero_gradient(loss, positive):
    z = scores_of(loss, len(positive))
    value = loss(z, rows=make_rows(positive))
    value.backward()
    assert value.item() == 0
    assert torch.equal(z.grad, torch.zeros_like(z))


@LOSSES
def test_extreme_scores_stay_finite_and_are_pulled_back(loss):
    rows = make_rows([1, 0, 1, 0, 1, 0])
    z = torch.tensor([-1e4, 1e4, 1e4, -1e4, 0.0, 0.0])
    if loss is jrc_loss:
        z = torch.stack([-z, z], dim=1)
    z.requires_grad_()
    value = loss(z, rows=rows)
    value.backward()
    assert math.isfinite(value.item())
    assert value.item() > 1000
    assert torch.isfinite(z.grad).all()
    worst = z.grad[0, 1] if loss is jrc_loss else z.grad[0]
    assert worst < -0.1


def test_what_a_shift_of_all_scores_changes():
    rows = drawn()
    z = scores(40)
    for loss in (pair_loss, list_loss):
        assert loss(z + 3.7, rows=rows).item() == pytest.approx(loss(z, rows=rows).item(), 1e-12)
    assert list_ce_loss(z + 3.7, rows=rows).item() != pytest.approx(
        list_ce_loss(z, rows=rows).item(), rel=1e-3
    )
    two = scores(40, width=2)
    shifted = two + torch.tensor([3.7, -1.2], dtype=torch.float64)
    assert jrc_loss(shifted, rows=rows).item() == pytest.approx(jrc_loss(two, rows=rows).item())


def negative_gradient_ratio(rate):
    """Mean |dL/dz| on negatives, pair over BCE, for calibrated scores of some rate."""
    count = 4000
    noise = torch.randn(count, dtype=torch.float64)
    low, high = -20.0, 20.0
    for _ in range(60):
        shift = (low + high) / 2
        low, high = (shift, high) if (noise + shift).sigmoid().mean() < rate else (low, shift)
    z = (noise + low).requires_grad_()
    positive = torch.rand(count) < z.detach().sigmoid()
    of_pairs = torch.autograd.grad(pair_loss(z, rows=make_rows(positive)), z)[0]
    bce = F.binary_cross_entropy_with_logits(z, positive.double())
    of_bce = torch.autograd.grad(bce, z)[0]
    return (of_pairs[~positive].abs().mean() / of_bce[~positive].abs().mean()).item()


def test_pairs_keep_a_gradient_on_negatives_where_positives_are_rare():
    rare, common = negative_gradient_ratio(0.03), negative_gradient_ratio(0.25)
    assert rare > 5
    assert common < 3


def test_the_cap_keeps_all_positives_and_the_same_negatives_in_any_order():
    rows = drawn(200, rate=0.2)
    hashes = hash_rows([torch.arange(200)], salt=3)
    kept = cap_negatives(rows, hash_N=hashes, max_negatives=25)
    assert kept[rows.positive_N].all()
    assert (kept & ~rows.positive_N).sum() == 25
    order = torch.randperm(200)
    again = cap_negatives(rows.take(order), hash_N=hashes[order], max_negatives=25)
    assert torch.equal(again, kept[order])
    other = cap_negatives(rows, hash_N=hash_rows([torch.arange(200)], salt=4), max_negatives=25)
    assert not torch.equal(other, kept)
    assert cap_negatives(rows, hash_N=hashes, max_negatives=200).all()


def test_capped_pairs_estimate_all_pairs():
    rows = drawn(400, rate=0.2)
    z = scores(400).detach()
    estimates = []
    for step in range(400):
        hashes = hash_rows([torch.arange(400)], salt=step)
        kept = cap_negatives(rows, hash_N=hashes, max_negatives=40)
        estimates.append(pair_loss(z[kept], rows=rows.take(kept)).item())
    error = np.std(estimates) / math.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(pair_loss(z, rows=rows).item(), abs=4 * error)
    assert 0 < error < 0.01


def test_copies_of_a_row_stay_or_go_together():
    rows = make_rows([0] * 6)
    hashes = torch.tensor([1, 2, 2, 2, 3, 4])
    kept = cap_negatives(rows, hash_N=hashes, max_negatives=2)
    assert kept.tolist() == [True, False, False, False, False, False]


def test_hashes_are_those_of_the_data():
    keys = np.random.default_rng(1).integers(0, 2**63, 1000)
    salted = mix64(np.full(1000, 17))
    wanted = mix64(salted ^ keys.astype(np.uint64)).view(np.int64)
    found = hash_rows([torch.from_numpy(keys)], salt=17)
    assert found.tolist() == wanted.tolist()
    assert len(set(hash_rows([torch.arange(1000), torch.arange(1000)], salt=0).tolist())) == 1000
