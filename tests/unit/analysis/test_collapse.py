"""Spectra from Gram matrices against decompositions of the tables themselves."""

import math

import numpy as np
import pytest
import torch

from lfm4ads.analysis.collapse import (
    GramSums,
    abundance,
    project_gram,
    projected,
    random_spectrum,
    singular_values,
    spectrum,
)
from lfm4ads.analysis.spectrum import information_abundance


@pytest.fixture
def draws():
    return np.random.default_rng(0)


def grams_of(matrix, *, weights=None, parts=1):
    """Return the Gram matrices, from blocks that are added by themselves."""
    sums = GramSums(matrix.shape[1], weights=list(weights or {}))
    places = np.array_split(np.arange(len(matrix)), parts)
    for place in places:
        own = {name: torch.from_numpy(one[place]) for name, one in (weights or {}).items()}
        sums.add(torch.from_numpy(matrix[place]), weights=own)
    return sums.merged(np.copy)


def test_the_identity_uses_every_direction_and_one_direction_is_one(draws):
    assert spectrum(grams_of(np.eye(7))["raw"]).abundance == pytest.approx(7)
    line = np.outer(draws.normal(size=50), draws.normal(size=7))
    assert spectrum(grams_of(line)["raw"]).abundance == pytest.approx(1, abs=1e-6)
    assert math.isnan(spectrum(grams_of(np.zeros((5, 3)))["raw"]).abundance)


def test_gram_gives_the_singular_values_of_the_table(draws):
    matrix = draws.normal(size=(90, 8)) * np.geomspace(1, 1e-3, 8)
    grams = grams_of(matrix, parts=7)
    wanted = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(singular_values(grams["raw"]), wanted, rtol=1e-8)
    assert spectrum(grams["raw"]).abundance == pytest.approx(information_abundance(matrix))


def test_scale_and_rotation_change_nothing(draws):
    matrix = draws.normal(size=(60, 6)) * [5, 4, 3, 2, 1, 1]
    rotation, _ = np.linalg.qr(draws.normal(size=(6, 6)))
    wanted = spectrum(grams_of(matrix)["raw"]).abundance
    assert 1 < wanted < 6
    assert spectrum(grams_of(1_000 * matrix @ rotation)["raw"]).abundance == pytest.approx(wanted)
    assert spectrum(grams_of(matrix * [9, 1, 1, 1, 1, 1])["raw"]).abundance < wanted - 0.5


def test_rows_of_length_one_and_weighted_rows(draws):
    matrix = draws.normal(size=(40, 5)) * draws.lognormal(size=(40, 1))
    matrix[3] = 0
    counts = draws.integers(0, 5, 40)
    grams = grams_of(matrix, weights={"clicks": counts}, parts=3)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit = np.divide(matrix, lengths, out=np.zeros_like(matrix), where=lengths > 0)
    repeated = np.repeat(matrix, counts, axis=0)
    for name, table in (("normalised", unit), ("by clicks", repeated)):
        found = singular_values(grams[name])
        np.testing.assert_allclose(found, np.linalg.svd(table, compute_uv=False), rtol=1e-10)


def test_rows_that_nobody_looks_up_hide_a_collapse_from_the_raw_table(draws):
    trained = np.outer(draws.normal(size=100), draws.normal(size=6))
    table = np.concatenate([trained, draws.normal(size=(900, 6))])
    counts = np.repeat([1, 0], [100, 900])
    grams = grams_of(table, weights={"all": counts})
    assert spectrum(grams["raw"]).abundance > 4
    assert spectrum(grams["by all"]).abundance == pytest.approx(1, abs=1e-6)


def test_half_precision_is_summed_in_double(draws):
    matrix = draws.normal(size=(64, 4)).astype(np.float16)
    wanted = grams_of(matrix.astype(np.float64))["raw"]
    np.testing.assert_array_equal(grams_of(matrix)["raw"], wanted)


def test_a_projected_table_needs_no_rows(draws):
    table, weight = draws.normal(size=(70, 6)), draws.normal(size=(4, 6))
    found = project_gram(grams_of(table)["raw"], weight)
    np.testing.assert_allclose(found, (table @ weight.T).T @ (table @ weight.T))


def test_every_field_as_every_other_sees_it(draws):
    dims = [4, 3, 2]
    tables = [draws.normal(size=(30, 4)), draws.normal(size=(50, 3)), None]
    weight = draws.normal(size=(9, 9))
    weight[4:7, :4] = np.outer(weight[4:7, 0], weight[0, :4])  # field 0 collapses towards field 1
    grams = [None if one is None else grams_of(one)["raw"] for one in tables]
    found = projected(weight, grams, dims=dims)
    edges = [0, 4, 7, 9]
    for i, table in enumerate(tables):
        for j in range(3):
            block = weight[edges[j] : edges[j + 1], edges[i] : edges[i + 1]]
            assert found.strength_NN[i, j] == pytest.approx(np.sqrt((block**2).sum()))
            if table is None:
                assert math.isnan(found.abundance_NN[i, j])
            else:
                wanted = information_abundance(table @ block.T)
                assert found.abundance_NN[i, j] == pytest.approx(wanted, abs=1e-6)
    assert found.abundance_NN[0, 1] == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="does not fit"):
        projected(weight, grams, dims=[4, 3, 3])


@pytest.mark.parametrize("rows", [3, 8, 40, 5_000])
def test_a_random_table_is_drawn_without_its_rows(rows, draws):
    found = [random_spectrum(rows, 8, seed=seed).abundance for seed in range(40)]
    tables = [draws.normal(size=(rows, 8)) for _ in range(40)]
    wanted = [information_abundance(table) for table in tables]
    spread = np.hypot(np.std(found), np.std(wanted)) / np.sqrt(40)
    assert abs(np.mean(found) - np.mean(wanted)) < 4 * spread
    assert random_spectrum(rows, 8, seed=3).abundance == found[3]


def test_abundance_of_values():
    assert abundance(np.array([4.0, 2.0, 1.0])) == 7 / 4
