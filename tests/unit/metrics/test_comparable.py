"""Bins of users by hand, figures by brute force, differences seed by seed."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from lfm4ads.data.positives import Positives
from lfm4ads.metrics.comparable import (
    COMPARABLE,
    FIRST,
    SECOND,
    UNSEEN,
    Against,
    BinsConfig,
    Cell,
    bin_users,
    cell_of,
    compare_cells,
    log_ratios,
)
from tests.unit.metrics.reference import ALONE, auc_by_pairs, gauc_by_users

PAIR = ("finish", "like")


def positives(rows, counts, *, users=None):
    """Counts of users, a pair of (finish, like) each."""
    users = range(len(rows)) if users is None else users
    return Positives(
        tasks=PAIR,
        user_U=np.array(users, dtype=np.int64),
        rows_UT=np.array(rows, dtype=np.int64),
        positives_UT=np.array(counts, dtype=np.int64),
    )


# Rates: finish 100 of 200, like 10 of 200; expected for 50 rows: 25 and 2.5.
FOUR = positives([(50, 50)] * 4, [(40, 0), (30, 3), (25, 3), (5, 4)])


def test_rho_is_the_ratio_of_levels_against_what_the_rates_expect():
    wanted = [
        np.log2((finish + 1) / (25 + 1) / ((like + 1) / (2.5 + 1)))
        for finish, like in ((40, 0), (30, 3), (25, 3), (5, 4))
    ]
    rho = log_ratios(FOUR, pair=PAIR, config=BinsConfig())
    np.testing.assert_allclose(rho, wanted, rtol=1e-12)
    back = log_ratios(FOUR, pair=PAIR[::-1], config=BinsConfig())
    np.testing.assert_allclose(back, -rho, rtol=1e-12)


def test_without_rates_the_task_with_more_positives_dominates_all():
    config = BinsConfig(normalise="none", smoothing=0.5)
    rho = log_ratios(FOUR, pair=PAIR, config=config)
    np.testing.assert_allclose(rho[:2], [np.log2(40.5 / 0.5), np.log2(30.5 / 3.5)])
    assert bin_users(FOUR, pair=PAIR, config=config).bin_U.tolist() == [
        FIRST, FIRST, FIRST, COMPARABLE,
    ]  # fmt: skip
    rated = bin_users(FOUR, pair=PAIR, config=BinsConfig())
    assert rated.bin_U.tolist() == [FIRST, COMPARABLE, COMPARABLE, SECOND]


def test_rows_of_a_user_that_carry_fewer_labels_of_a_task_expect_fewer_positives():
    # The second user was asked for likes on 10 rows alone, and liked as large a share as the first.
    counts = positives([(100, 100), (100, 10)], [(50, 20), (50, 2)])
    rho = log_ratios(counts, pair=PAIR, config=BinsConfig(smoothing=1e-9))
    np.testing.assert_allclose(rho, 0, atol=1e-6)


def test_comparable_holds_its_ends():
    counts = positives([(1, 1)] * 4, [(3, 1), (1, 3), (4, 1), (1, 4)])
    config = BinsConfig(normalise="none")
    assert bin_users(counts, pair=PAIR, config=config).bin_U.tolist() == [
        COMPARABLE, COMPARABLE, FIRST, SECOND,
    ]  # fmt: skip


def test_a_user_without_training_rows_of_a_task_is_in_no_bin():
    counts = positives([(9, 9), (9, 0), (9, 9)], [(3, 3), (3, 0), (3, 3)], users=(4, 5, 9))
    bins = bin_users(counts, pair=PAIR, config=BinsConfig())
    assert bins.bin_U.tolist() == [COMPARABLE, UNSEEN, COMPARABLE]
    asked = np.array([9, 7, 5, 4, 4, 100, 0])
    assert bins.of(asked).tolist() == [
        COMPARABLE, UNSEEN, UNSEEN, COMPARABLE, COMPARABLE, UNSEEN, UNSEEN,
    ]  # fmt: skip
    assert bins.names == ("finish_dominant", "comparable", "like_dominant", "unseen")


def test_terciles_are_thirds_of_the_users_that_have_rows():
    rng = np.random.default_rng(0)
    counts = rng.permutation([*((n, 30) for n in range(1, 91)), *[(0, 0)] * 10])
    rows = np.where(counts.sum(1, keepdims=True) > 0, 100, 0).repeat(2, axis=1)
    bins = bin_users(positives(rows, counts), pair=PAIR, config=BinsConfig(edges="terciles"))
    assert np.bincount(bins.bin_U).tolist() == [30, 30, 30, 10]
    assert set(counts[bins.bin_U == FIRST, 0]) == set(range(61, 91))
    assert set(counts[bins.bin_U == SECOND, 0]) == set(range(1, 31))


@pytest.mark.parametrize("words", [{"smoothing": 0}, {"width": -0.1}])
def test_impossible_bins_are_refused(words):
    with pytest.raises(ValueError, match=f"bins.{next(iter(words))} must be"):
        BinsConfig(**words)


def test_figures_of_a_cell_are_those_of_brute_force():
    rng = np.random.default_rng(3)
    users = rng.integers(0, 12, 200)
    labels = (rng.random(200) < 0.3 * (users != 5)).astype(np.int8)  # user 5 has one class
    logits = np.round(rng.standard_normal(200) + labels + 0.2 * users, 1).astype(np.float32)
    cell = cell_of(logits, label_N=labels, user_N=users, alone=ALONE)
    assert cell.auc == pytest.approx(auc_by_pairs(logits, labels > 0), abs=1e-12)
    assert cell.auc == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)
    assert cell.gauc == pytest.approx(gauc_by_users(logits, labels > 0, users), abs=1e-12)
    order = rng.permutation(200)
    again = cell_of(logits[order], label_N=labels[order], user_N=users[order], alone=ALONE)
    assert again == cell


def test_three_users_by_hand():
    # User 1: of 2 pairs, 1 in order and 1 tied. User 2: 1 of 1. User 3 has one class.
    logits = np.array([0.0, 1.0, 1.0, 2.0, 3.0, 9.0], np.float32)
    labels = np.array([0, 0, 1, 0, 1, 1], np.int8)
    users = np.array([1, 1, 1, 2, 2, 3])
    cell = cell_of(logits, label_N=labels, user_N=users, alone=ALONE)
    assert cell.gauc == pytest.approx((3 * 0.75 + 2 * 1.0) / 5)
    assert cell.auc == pytest.approx((1.5 + 3 + 3) / 9)


def test_a_cell_without_rows_or_with_one_class_has_no_figures():
    none = np.array([])
    empty = cell_of(none, label_N=none, user_N=none.astype(int), alone=ALONE)
    assert empty == Cell(auc=None, gauc=None)


AUCS = {
    ("single_finish", 0): (0.70, 0.10), ("single_finish", 1): (0.72, 0.10),
    ("single_like", 0): (0.10, 0.80), ("single_like", 1): (0.10, 0.84),
    ("stem", 0): (0.71, 0.86), ("stem", 1): (0.75, 0.86),
}  # fmt: skip


def runs_of(aucs=AUCS):
    """Runs whose figures are the same in every bin but the last, which has none."""
    return {
        key: {
            ("p", place, task): Cell(auc=None if place == UNSEEN else auc, gauc=0.5)
            for place in range(4)
            for task, auc in zip(PAIR, pair, strict=True)
        }
        for key, pair in aucs.items()
    }


def rows_by(rows, *, bin_name="comparable"):
    return {(row["task"], row["variant"]): row for row in rows if row["bin"] == bin_name}


def compare(runs, against):
    bins = bin_users(FOUR, pair=PAIR, config=BinsConfig())
    return compare_cells(runs, name="p", bins=bins, against=against, seeds=(0, 1))


def test_each_task_is_compared_with_the_run_that_learned_it_alone():
    against = Against(baseline="", baselines={"finish": "single_finish", "like": "single_like"})
    rows = rows_by(compare(runs_of(), against))
    assert set(rows) == {
        ("finish", "single_finish"), ("like", "single_like"),
        ("finish", "stem"), ("like", "stem"), ("mean", "stem"),
    }  # fmt: skip
    assert rows["finish", "stem"]["delta_auc_values"] == pytest.approx([0.01, 0.03])
    assert rows["like", "stem"]["delta_auc_values"] == pytest.approx([0.06, 0.02])
    mean = rows["mean", "stem"]
    assert mean["delta_auc_values"] == pytest.approx([0.035, 0.025])
    half = stats.t.ppf(0.975, 1) * 0.005
    assert mean["delta_auc"]["low"] == pytest.approx(0.03 - half)
    assert mean["delta_auc"]["high"] == pytest.approx(0.03 + half)
    assert rows["finish", "single_finish"]["delta_auc"] is None
    assert rows["finish", "single_finish"]["auc"]["mean"] == pytest.approx(0.71)


def test_one_baseline_of_all_tasks_is_shown_on_all():
    aucs = {key: value for key, value in AUCS.items() if key[0] != "single_like"}
    rows = rows_by(compare(runs_of(aucs), Against(baseline="single_finish", baselines={})))
    assert rows["mean", "single_finish"]["auc"]["mean"] == pytest.approx((0.71 + 0.10) / 2)
    assert rows["mean", "single_finish"]["delta_auc"] is None
    assert rows["like", "stem"]["delta_auc_values"] == pytest.approx([0.76, 0.76])


def test_a_bin_without_figures_has_none():
    against = Against(baseline="stem", baselines={})
    rows = rows_by(compare(runs_of(), against), bin_name="unseen")
    assert rows["mean", "single_like"]["auc"] is None
    assert rows["mean", "single_like"]["delta_auc"] is None
    assert rows["mean", "single_like"]["delta_gauc_values"] == [0, 0]
