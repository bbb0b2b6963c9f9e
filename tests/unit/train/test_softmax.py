"""The sampled softmax: against a plain loop, with a planted truth, and on several ranks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lfm4ads.train.softmax import Rows, frequency, sampled_softmax
from tests.batches import one_rank
from tests.gloo import run_ranks

DIM = 5


def draw(*, rows=16, items=6, seed=0):
    """Return rows with repeated items, some without a vector, some not drawn, some positive."""
    torch.manual_seed(seed)
    key = torch.randint(items, (rows,)) + 2**62
    vectors = torch.randn(items, DIM)
    return Rows(
        query_BD=torch.randn(rows, DIM),
        item_BD=vectors[key - 2**62],
        key_B=key,
        log_q_B=torch.rand(items).log()[key - 2**62],
        drawn_B=(torch.arange(rows) % 7 != 3).float(),
        known_B=(torch.arange(rows) % 5 != 2).float(),
        positive_B=(torch.arange(rows) % 3 != 1).float(),
    )


@torch.no_grad()
def by_loops(rows, *, logq):
    total = 0.0
    count = len(rows.key_B)
    for i in range(count):
        if not (rows.positive_B[i] and rows.known_B[i]):
            continue
        own = float(rows.query_BD[i] @ rows.item_BD[i])
        others = [j for j in range(count) if j != i and rows.drawn_B[j]]
        mass = np.exp(own)
        for j in others:
            if rows.known_B[j] and rows.key_B[j] != rows.key_B[i]:
                score = float(rows.query_BD[i] @ rows.item_BD[j])
                correction = float(rows.log_q_B[j]) + np.log(len(others)) if logq else 0.0
                mass += np.exp(score - correction)
        total += np.log(mass) - own
    return total


@pytest.mark.parametrize("logq", [True, False])
@pytest.mark.parametrize("learns", [True, False])
def test_it_is_the_loop(logq, learns):
    rows = draw()
    rows.item_BD.requires_grad_(learns)
    found = sampled_softmax(rows, logq=logq, ranks=one_rank())
    assert found.item() == pytest.approx(by_loops(rows, logq=logq), rel=1e-5)


def test_a_batch_without_positives_still_has_a_gradient():
    rows = replace(draw(), positive_B=torch.zeros(16))
    rows.query_BD.requires_grad_()
    loss = sampled_softmax(rows, logq=True, ranks=one_rank())
    loss.backward()
    assert loss.item() == 0
    assert not rows.query_BD.grad.any()


def test_frequencies_are_shares_and_an_unseen_item_is_rarer_than_all():
    found = frequency(np.array([3, 8, 2**62]), np.array([1, 2, 5]))
    asked = np.array([8, 2**62, 4, 3])
    np.testing.assert_allclose(np.exp(found.of(asked)), [2 / 8, 5 / 8, 1 / 16, 1 / 8], rtol=1e-6)


ITEMS, BATCH = 12, 512


def planted():
    """Return what one kind of user likes, (ITEMS,), and how often items are shown, unlike it."""
    torch.manual_seed(3)
    wanted = torch.softmax(torch.randn(ITEMS), 0)
    shown = torch.softmax(torch.randn(ITEMS), 0)
    return wanted, shown


def learn(*, logq, steps=400):
    """Fit one score an item, by sampled softmax with candidates drawn as items are shown."""
    wanted, shown = planted()
    score = torch.zeros(ITEMS, requires_grad=True)
    optimizer = torch.optim.Adam([score], lr=0.05)
    one_hot = torch.eye(ITEMS)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        liked = torch.multinomial(wanted, BATCH // 4, replacement=True)
        lent = torch.multinomial(shown, BATCH, replacement=True)
        key = torch.cat([liked, lent])
        positive = (torch.arange(len(key)) < len(liked)).float()
        rows = Rows(
            # The score is in the query, so that the items are frozen as IR is.
            query_BD=score.expand(len(key), -1),
            item_BD=one_hot[key],
            key_B=key,
            log_q_B=shown[key].log(),
            drawn_B=1 - positive,
            known_B=torch.ones(len(key)),
            positive_B=positive,
        )
        loss = sampled_softmax(rows, logq=logq, ranks=one_rank()) / len(liked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = F.log_softmax(score.detach(), 0)
    return found, wanted, shown


def test_logq_recovers_what_users_like_and_without_it_popularity_is_taken_off():
    found, wanted, shown = learn(logq=True)
    corrected = (found - wanted.log()).abs().max()
    assert corrected < 0.2
    found, wanted, shown = learn(logq=False)
    assert (found - wanted.log()).abs().max() > 5 * corrected
    # What it learns instead is liking over exposure.
    ratio = F.log_softmax(wanted.log() - shown.log(), 0)
    assert np.corrcoef(found, ratio)[0, 1] > 0.99 > np.corrcoef(found, wanted.log())[0, 1]


def gradients(ranks, learns):
    """Return the loss over all ranks and the gradients of this rank's tower weights, summed."""
    rows = draw(rows=16)
    mine = slice(ranks.rank * 16 // ranks.world, (ranks.rank + 1) * 16 // ranks.world)
    torch.manual_seed(5)
    user, item = torch.randn(DIM, DIM, requires_grad=True), torch.randn(DIM, DIM)
    item.requires_grad_(learns)
    own = Rows(
        **{
            name: getattr(rows, name)[mine]
            for name in ("key_B", "log_q_B", "drawn_B", "known_B", "positive_B")
        },
        query_BD=rows.query_BD[mine] @ user,
        item_BD=rows.item_BD[mine] @ item,
    )
    loss = sampled_softmax(own, logq=True, ranks=ranks)
    loss.backward()
    found = [loss.detach().numpy()[None], user.grad.numpy()]
    return [ranks.sum(one) for one in (*found, *([item.grad.numpy()] if learns else []))]


@pytest.mark.multiproc
@pytest.mark.parametrize("learns", [True, False])
def test_value_and_gradient_do_not_depend_on_the_number_of_ranks(learns):
    (alone,) = run_ranks(gradients, 1, learns)
    assert np.abs(alone[1]).max() > 0.1
    for world in (2, 4):
        for found in run_ranks(gradients, world, learns):
            for one, two in zip(alone, found, strict=True):
                np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
