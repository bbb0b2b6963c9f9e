"""Information abundance of matrices whose directions are known."""

import math

import numpy as np
import pytest

from lfm4ads.analysis.spectrum import information_abundance


@pytest.fixture
def draws():
    return np.random.default_rng(0)


def test_the_identity_uses_every_direction():
    assert information_abundance(np.eye(7)) == pytest.approx(7)


def test_one_direction_is_one(draws):
    matrix = np.outer(draws.normal(size=50), draws.normal(size=7))
    assert information_abundance(matrix) == pytest.approx(1)


def test_known_singular_values(draws):
    left, _ = np.linalg.qr(draws.normal(size=(50, 3)))
    right, _ = np.linalg.qr(draws.normal(size=(3, 3)))
    assert information_abundance(left @ np.diag([4.0, 2.0, 1.0]) @ right) == pytest.approx(7 / 4)


def test_scale_and_rotation_change_nothing_and_a_stretch_does(draws):
    matrix = draws.normal(size=(50, 7))
    rotation, _ = np.linalg.qr(draws.normal(size=(7, 7)))
    wanted = information_abundance(matrix)
    assert 1 < wanted < 7
    assert information_abundance(1_000 * matrix) == pytest.approx(wanted)
    assert information_abundance(matrix @ rotation) == pytest.approx(wanted)
    assert information_abundance(matrix * [10, 1, 1, 1, 1, 1, 1]) < wanted - 1


def test_half_precision_is_summed_in_double(draws):
    matrix = draws.normal(size=(50, 7)).astype(np.float16)
    wanted = information_abundance(matrix.astype(np.float64))
    assert information_abundance(matrix) == wanted


def test_a_table_of_zeros_has_none():
    assert math.isnan(information_abundance(np.zeros((5, 3))))
