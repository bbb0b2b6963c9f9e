"""Recall, hit rate and NDCG against plain loops and scikit-learn, and their intervals."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from lfm4ads.metrics.top_k import TopKMetrics, top_k_json
from tests.batches import one_rank
from tests.gloo import run_ranks

KS = (1, 3, 10)


def draw(seed, *, users=30, items=40):
    """Return scores (U, N) without ties and relevance (U, N); every user has a target."""
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.arange(users * items, dtype=float)).reshape(users, items)
    relevant = rng.random((users, items)) < 0.1
    relevant[np.arange(users), rng.integers(items, size=users)] = True
    return scores, relevant


def pairs_of(scores, relevant, *, longest=10):
    """Return the users and places of all targets; -1 beyond the longest list."""
    place = (-scores).argsort(axis=1).argsort(axis=1)
    users, items = np.nonzero(relevant)
    places = place[users, items]
    return users.astype(np.int64) * 7 + 5, np.where(places < longest, places, -1)


def by_loops(scores, relevant, k):
    recall, hit = [], []
    for score, wanted in zip(scores, relevant, strict=True):
        best = sorted(range(len(score)), key=lambda item: -score[item])[:k]
        hits = sum(wanted[item] for item in best)
        recall.append(hits / wanted.sum())
        hit.append(float(hits > 0))
    return np.array(recall), np.array(hit)


def test_figures_are_those_of_loops_and_of_scikit_learn():
    scores, relevant = draw(0)
    metrics = TopKMetrics(KS)
    users, places = pairs_of(scores, relevant)
    metrics.update(users, places_T=places)
    for figures in metrics.reduce(one_rank()):
        recall, hit = by_loops(scores, relevant, figures.k)
        assert figures.recall.value == pytest.approx(recall.mean(), abs=1e-12)
        assert figures.hit_rate.value == pytest.approx(hit.mean(), abs=1e-12)
        exact = ndcg_score(relevant, scores, k=figures.k)
        assert figures.ndcg.value == pytest.approx(exact, abs=1e-12)
        assert (figures.users, figures.lists, figures.targets) == (30, 30, relevant.sum())
        half = 1.96 * recall.std(ddof=1) / np.sqrt(30)
        assert figures.recall.high - figures.recall.value == pytest.approx(half, abs=1e-12)


def test_lists_of_one_user_on_two_days_are_one_draw():
    one, two = TopKMetrics((3,)), TopKMetrics((3,))
    users, places = pairs_of(*draw(1))
    one.update(users, places_T=places)
    for _ in range(2):
        two.update(users, places_T=places)
    (single,), (double,) = one.reduce(one_rank()), two.reduce(one_rank())
    assert double.lists == 2 * single.lists
    assert double.users == single.users
    assert double.recall.value == pytest.approx(single.recall.value)
    # Rows taken as independent, the interval would be narrower by a root of two.
    assert double.recall.low == pytest.approx(single.recall.low)


def test_nothing_and_a_single_user_have_no_interval():
    metrics = TopKMetrics((3,))
    (empty,) = metrics.reduce(one_rank())
    assert (empty.recall.value, empty.users, empty.targets) == (None, 0, 0)
    metrics.update(np.array([4, 4]), places_T=np.array([0, -1]))
    row = top_k_json(metrics.reduce(one_rank())[0])
    assert (row["recall"], row["recall_low"], row["hit_rate"]) == (0.5, None, 1.0)
    assert row["ndcg"] == pytest.approx(1 / (1 + 1 / np.log2(3)))


def reduce_on_ranks(ranks):
    metrics = TopKMetrics(KS)
    for seed in (0, 1):
        users, places = pairs_of(*draw(seed))
        mine = users % ranks.world == ranks.rank
        metrics.update(users[mine], places_T=places[mine])
    return metrics.reduce(ranks)


@pytest.mark.multiproc
def test_ranks_do_not_show_in_the_last_bit():
    (alone,) = run_ranks(reduce_on_ranks, 1)
    for figures in run_ranks(reduce_on_ranks, 2):
        assert figures == alone
