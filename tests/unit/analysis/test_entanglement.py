"""Two planted opposite tasks: separate tables keep them apart, one shared table loses one."""

import numpy as np
import pytest

from lfm4ads.analysis.entanglement import (
    FAR,
    MIDDLE,
    NEAR,
    active_pairs,
    entanglement_score,
    find_conflict,
    mixture_distances,
    pair_distances,
    place_conflict,
    zones,
)

PAIRS = 4_000


@pytest.fixture
def draws():
    return np.random.default_rng(0)


def trained(draws, affinity, *, seed):
    """Return user and item rows of one table whose distances fall with the task's affinity."""
    noise = np.random.default_rng(seed).normal(size=(len(affinity), 4)) * 0.02
    direction = draws.normal(size=(len(affinity), 4))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    item = draws.normal(size=(len(affinity), 4))
    return item + direction * np.exp(-affinity)[:, None] + noise, item


def planted(draws):
    """Return the affinities of two tasks, opposite on a fifth of the pairs."""
    like = draws.normal(size=PAIRS)
    opposite = draws.random(PAIRS) < 0.3
    finish = np.where(opposite, -like, like) + 0.05 * draws.normal(size=PAIRS)
    return {"like": like, "finish": finish}


def distances(draws, affinity, *, seed):
    return pair_distances(*trained(draws, affinity, seed=seed))


def test_separate_tables_keep_both_tasks_and_a_shared_one_loses_one(draws):
    tasks = planted(draws)
    single = {task: distances(draws, one, seed=1) for task, one in tasks.items()}
    conflict = find_conflict(single)
    assert 0.1 < conflict.pairs.mean() < 0.3
    assert not (conflict.far_first_N & conflict.far_second_N).any()

    separate = {
        task: place_conflict(distances(draws, one, seed=2), conflict).correct[task]
        for task, one in tasks.items()
    }
    assert min(separate.values()) > 0.9
    assert entanglement_score(separate) < 0.1

    shared = place_conflict(distances(draws, tasks["finish"], seed=3), conflict).correct
    assert shared["finish"] > 0.9
    assert shared["like"] < 0.1
    assert 0.4 < entanglement_score(shared) < 0.6


def test_zones_are_forty_twenty_forty(draws):
    found = np.bincount(zones(draws.lognormal(size=10_000)))
    assert found[[NEAR, MIDDLE, FAR]].tolist() == [4_000, 2_000, 4_000]


def test_conflict_pair_by_pair(draws):
    single = {"a": draws.random(50), "b": draws.random(50)}
    conflict = find_conflict(single)
    for pair in range(50):
        far_a = single["a"][pair] > np.percentile(single["a"], 60)
        near_b = single["b"][pair] <= np.percentile(single["b"], 40)
        assert conflict.far_first_N[pair] == (far_a and near_b)
    with pytest.raises(ValueError, match="between two tasks"):
        find_conflict({"a": single["a"]})


def test_histogram_holds_every_pair(draws):
    single = {"a": draws.random(500), "b": draws.random(500)}
    conflict = find_conflict(single)
    found = place_conflict(draws.random(500), conflict)
    assert len(found.edges) == 40
    assert found.all_pairs.sum() == 500
    assert found.conflict_pairs.sum() == conflict.pairs.sum() > 0


def test_no_conflict_is_nan(draws):
    same = draws.random(100)
    found = place_conflict(same, find_conflict({"a": same, "b": same}))
    assert np.isnan(found.correct["a"])


def test_a_gate_that_reads_the_right_table_disentangles_a_mixture(draws):
    tasks = planted(draws)
    single = {task: distances(draws, one, seed=1) for task, one in tasks.items()}
    conflict = find_conflict(single)
    tables = np.stack([50 * distances(draws, one, seed=2) for one in tasks.values()], axis=1)
    tables[:, 1] /= 1_000  # a table of another scale must not be drowned
    for at, task in enumerate(tasks):
        gate = np.full(tables.shape, 0.05)
        gate[:, at] = 0.95
        mixed = place_conflict(mixture_distances(tables, gate), conflict).correct
        assert mixed[task] > 0.9, task
    even = mixture_distances(tables, np.full(tables.shape, 0.5))
    assert min(place_conflict(even, conflict).correct.values()) < 0.6


def test_active_pairs_by_percentiles():
    users, items = np.arange(1, 11), np.arange(1, 11)
    found = active_pairs(users, items[::-1], user_counts=users, item_counts=items, percentile=40)
    assert np.flatnonzero(found).tolist() == [4, 5]
