"""GAUC against a loop over users, and the sample of users when rows do not fit."""

import numpy as np
import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.metrics import grouped_auc
from lfm4ads.metrics.grouped_auc import GroupedAuc
from tests.gloo import run_ranks
from tests.unit.metrics.reference import ALONE, ads_rows, gauc_by_users


def grouped_of(rows, *, max_rows=16_000_000, batch=700):
    logits, labels, users = rows
    grouped = GroupedAuc(max_rows=max_rows)
    for start in range(0, len(logits), batch):
        part = slice(start, start + batch)
        grouped.update(logits[part], labels=labels[part], users=users[part])
    return grouped


def take(rows, chosen):
    return tuple(column[chosen] for column in rows)


def test_three_users_by_hand():
    users = np.array([7, 7, 7, -1, -1, 5, 5, 5, 5])
    labels = np.array([1, 0, 0, 1, 1, 1, 0, 1, 0])
    logits = np.array([2.0, 1.0, 3.0, 9.0, 8.0, 4.0, 4.0, 5.0, 6.0])
    figures = grouped_of((logits, labels, users)).reduce(ALONE)
    # User 7: AUC 1/2 over 3 rows; user 5: (0.5 + 0 + 1 + 0) / 4 over 4; user -1: one class.
    assert figures.gauc == pytest.approx((3 * 0.5 + 4 * 0.375) / 7, abs=1e-15)
    assert (figures.num_users, figures.num_rows, figures.users_ratio) == (2, 7, 1.0)


@pytest.mark.parametrize("part_rows", [2**20, 100])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_a_loop_over_users(ties, part_rows, monkeypatch):
    monkeypatch.setattr(grouped_auc, "_PART_ROWS", part_rows)
    rows = ads_rows(3000, rate=0.2, ties=ties)
    assert grouped_of(rows).reduce(ALONE).gauc == pytest.approx(gauc_by_users(*rows), rel=1e-13)


def test_no_user_with_both_classes_has_no_gauc():
    for count in (0, 1, 5):
        rows = (np.zeros(count), np.ones(count), np.zeros(count, dtype=int))
        assert grouped_of(rows).reduce(ALONE).gauc is None


def test_ids_beyond_2_53_stay_apart():
    users = np.array([2**62, 2**62 + 1] * 2)
    figures = grouped_of((np.array([0.0, 0, 1, 1]), np.array([0, 1, 1, 0]), users)).reduce(ALONE)
    assert figures.num_users == 2
    with pytest.raises(UserError, match="float64"):
        GroupedAuc().update(np.zeros(4), labels=np.zeros(4), users=users.astype(float))


def test_full_accumulator_keeps_whole_users_chosen_by_data_alone():
    rows = ads_rows(40_000, rate=0.2)
    full = grouped_of(rows, max_rows=6000)
    figures = full.reduce(ALONE)
    kept = full.state()
    assert figures.users_ratio == 0.125
    assert 4000 < len(kept["users"]) <= 6000
    sizes = np.sort(np.unique(kept["users"], return_counts=True)[1])
    everyone = np.unique(rows[2], return_counts=True)[1]
    assert sizes.mean() == pytest.approx(everyone.mean(), rel=0.05)
    assert figures.gauc == pytest.approx(gauc_by_users(*rows), abs=0.02)


def test_order_batches_and_merges_do_not_matter():
    rows = ads_rows(40_000, rate=0.2)
    whole = grouped_of(rows, max_rows=6000, batch=40_000).reduce(ALONE)
    order = np.random.default_rng(1).permutation(40_000)
    halves = [
        grouped_of(take(rows, part), max_rows=6000, batch=33) for part in np.split(order, [1000])
    ]
    halves[0].merge(halves[1])
    merged = halves[0].reduce(ALONE)
    assert merged.gauc == pytest.approx(whole.gauc, rel=1e-13)
    assert (merged.num_users, merged.num_rows) == (whole.num_users, whole.num_rows)
    assert merged.users_ratio == whole.users_ratio
    with pytest.raises(ValueError, match="max_rows"):
        halves[0].merge(GroupedAuc(max_rows=5))


def test_one_user_larger_than_the_limit_is_left_out():
    rows = (np.arange(20.0), np.arange(20) % 2, np.ones(20, dtype=int))
    figures = grouped_of(rows, max_rows=10).reduce(ALONE)
    assert figures.gauc is None
    assert figures.users_ratio < 1


def test_restored_accumulator_goes_on():
    rows = ads_rows(20_000)
    before = grouped_of(take(rows, slice(0, 9000)), max_rows=5000)
    after = GroupedAuc.from_state(before.state())
    logits, labels, users = take(rows, slice(9000, None))
    after.update(logits, labels=labels, users=users)
    assert after.reduce(ALONE) == grouped_of(rows, max_rows=5000).reduce(ALONE)


def figures_on(ranks, max_rows):
    rows = ads_rows(20_000, rate=0.2)
    # Uneven: rank 0 holds most rows, and only some ranks fill up.
    mine = np.flatnonzero(
        np.minimum(np.arange(20_000) % 7, ranks.world - 1) == ranks.world - 1 - ranks.rank
    )
    return grouped_of(take(rows, mine), max_rows=max_rows).reduce(ranks)


@pytest.mark.multiproc
@pytest.mark.parametrize("max_rows", [16_000_000, 6000])
def test_ranks_do_not_matter(max_rows):
    alone = figures_on(ALONE, max_rows)
    assert (alone.users_ratio < 1) == (max_rows == 6000)
    for world in (2, 4):
        found = run_ranks(figures_on, world, max_rows)
        assert all(figures == found[0] for figures in found)
        assert found[0].gauc == pytest.approx(alone.gauc, rel=1e-12)
        assert (found[0].num_users, found[0].num_rows) == (alone.num_users, alone.num_rows)
        assert found[0].users_ratio == alone.users_ratio
