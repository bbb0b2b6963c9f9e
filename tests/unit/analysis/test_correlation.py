"""Mutual information against an independent library, and planted correlations that are found."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import mutual_info_score

from lfm4ads.analysis.correlation import (
    BehaviourCounts,
    FieldCounts,
    behaviour_information,
    chance_information,
    field_information,
    learned_correlation,
    mutual_information,
    spearman,
    unit_range,
)

CATEGORIES = np.arange(100, 104)
TARGET, BEHAVIOUR, POSITION = 101, 102, 1


@pytest.fixture
def draws():
    return np.random.default_rng(0)


def histories(draws, rows, *, planted):
    """Return targets, behaviours on end, lengths and labels; category 99 is not counted."""
    lengths = draws.integers(0, 7, rows)
    values = draws.integers(99, 104, lengths.sum())
    target = draws.integers(99, 104, rows)
    rate = np.full(rows, 0.2)
    if planted:
        stops = np.cumsum(lengths)
        long = lengths > POSITION
        at = np.where(long, stops - 1 - POSITION, 0)
        rate[long & (values[at] == BEHAVIOUR) & (target == TARGET)] = 0.7
    return target, values, lengths, draws.random(rows) < rate


def counted(data, *, parts=1):
    """Return information (T, C, P) from counts of parts of the rows, added as ranks would."""
    target, values, lengths, labels = data
    totals = None
    for place in np.array_split(np.arange(len(target)), parts):
        counts = BehaviourCounts(CATEGORIES, CATEGORIES, positions=4)
        stops = np.cumsum(lengths)
        first = stops[place[0]] - lengths[place[0]]
        own = values[first : stops[place[-1]]]
        counts.add(target[place], own, lengths[place], labels[place])
        arrays = counts.arrays()
        totals = arrays if totals is None else [a + b for a, b in zip(totals, arrays, strict=True)]
    return behaviour_information(*totals)


def test_four_cells_are_those_of_an_independent_library(draws):
    data = histories(draws, 3_000, planted=True)
    target, values, lengths, labels = data
    found = counted(data)
    starts = np.cumsum(lengths) - lengths
    for t, category in enumerate(CATEGORIES):
        for c, behaviour in enumerate(CATEGORIES):
            for position in range(4):
                rows = np.flatnonzero(target == category)
                there = [
                    lengths[row] > position
                    and values[starts[row] + lengths[row] - 1 - position] == behaviour
                    for row in rows
                ]
                wanted = mutual_info_score(there, labels[rows]) / np.log(2)
                assert found[t, c, position] == pytest.approx(wanted, abs=1e-12)


def test_independent_data_say_nothing(draws):
    assert counted(histories(draws, 60_000, planted=False)).max() < 1e-3


def test_the_planted_category_and_position_is_the_largest_cell(draws):
    found = counted(histories(draws, 60_000, planted=True))
    place = np.unravel_index(found.argmax(), found.shape)
    assert [CATEGORIES[place[0]], CATEGORIES[place[1]], place[2]] == [TARGET, BEHAVIOUR, POSITION]
    assert found.max() > 20 * np.median(found)


def test_parts_add_up(draws):
    data = histories(draws, 500, planted=True)
    np.testing.assert_array_equal(counted(data), counted(data, parts=3))


def test_empty_counts_say_nothing():
    assert mutual_information(np.zeros((2, 2))) == 0
    assert mutual_information(np.array([[5, 0], [0, 5]])) == pytest.approx(1)
    assert chance_information(np.zeros((2, 2))) == 0
    none = np.zeros(0, dtype=np.int64)
    counts = BehaviourCounts(none, none, positions=2)
    counts.add(np.array([3]), np.array([3]), np.array([1]), np.array([True]))
    assert behaviour_information(*counts.arrays()).shape == (0, 0, 2)


def test_pairs_of_fields(draws):
    rows, names = 40_000, ("a", "b", "c")
    fields = {name: draws.integers(0, 8, rows) for name in names}
    label = (draws.random(rows) < 0.1) ^ ((fields["a"] + fields["c"]) % 2 == 0)
    counts = FieldCounts(names, buckets=8)
    for place in np.array_split(np.arange(rows), 3):
        counts.add({name: one[place] for name, one in fields.items()}, label[place])
    found = dict(zip(counts.pairs, field_information(counts.array()), strict=True))
    raw = dict(zip(counts.pairs, mutual_information(counts.array()), strict=True))
    together = fields["a"] * 8 + fields["c"]
    assert raw[0, 2] == pytest.approx(mutual_info_score(together, label) / np.log(2))
    assert found[0, 2] == max(found.values()) > 0.5
    assert found[0, 1] < 1e-3
    assert found[1, 2] < 1e-3


def test_learned_correlation_cell_by_cell(draws):
    e, v = draws.normal(size=(3, 4)), draws.normal(size=(2, 4))
    p = draws.normal(size=(6, 4))
    found = learned_correlation(e, v, p, scale=0.5)
    assert found.shape == (2, 3, 5)
    for t in range(2):
        z = np.array(
            [[0.5 * (e[c] + p[1 + i]) @ (v[t] + p[0]) for i in range(5)] for c in range(3)]
        )
        z = np.exp((z - z.mean()) / z.std())
        for c in range(3):
            for i in range(5):
                r = (e[c] + p[1 + i]) * (v[t] + p[0])
                wanted = z[c, i] / z.sum() * np.linalg.norm(r)
                assert found[t, c, i] == pytest.approx(wanted)


def test_a_model_without_vectors_has_no_preference():
    found = learned_correlation(np.zeros((2, 4)), np.zeros((1, 4)), np.zeros((4, 4)), scale=0.5)
    assert (found == 0).all()
    assert (unit_range(found) == 0).all()


def test_spearman_is_that_of_an_independent_library(draws):
    one = draws.integers(0, 6, (5, 4))
    other = one + draws.normal(size=(5, 4))
    wanted = spearmanr(one.ravel(), other.ravel()).statistic
    assert spearman(one, other) == pytest.approx(wanted)
    assert spearman(one, np.exp(one)) == pytest.approx(1)
    assert np.isnan(spearman(one, np.ones((5, 4))))
    np.testing.assert_allclose(unit_range(np.array([2.0, 4.0, 3.0])), [0, 1, 0.5])
