"""Keys are a bijection and draws look random, as pure functions of the index."""

import numpy as np
import pytest

from data.adsworld.hashing import hash_words, normals, permute, uniforms


@pytest.mark.parametrize("bits", [8, 9, 13, 16])
@pytest.mark.parametrize("seed", [0, 7])
def test_keys_of_a_whole_space_are_a_permutation(bits, seed):
    index = np.arange(2**bits)
    keys = permute(index, bits=bits, seed=seed, purpose="user key")
    assert np.array_equal(np.sort(keys), index)
    assert not np.array_equal(keys, index)


@pytest.mark.parametrize("bits", [40, 62])
def test_keys_in_a_large_space_are_distinct_spread_and_not_negative(bits):
    index = np.concatenate([np.arange(200_000), 2**bits - 1 - np.arange(200_000)])
    keys = permute(index, bits=bits, seed=3, purpose="item key")
    assert keys.dtype == np.int64
    assert len(np.unique(keys)) == len(index)
    assert keys.min() >= 0
    assert keys.max() < 2**bits
    filled = np.bincount(keys >> (bits - 4), minlength=16)
    assert filled.min() > 0.9 * len(index) / 16


def test_seed_and_purpose_change_keys():
    index = np.arange(1_000)
    one = permute(index, bits=40, seed=1, purpose="user key")
    assert (one != permute(index, bits=40, seed=2, purpose="user key")).mean() > 0.99
    assert (one != permute(index, bits=40, seed=1, purpose="item key")).mean() > 0.99


def test_normals_have_unit_covariance():
    drawn = normals(np.arange(100_000), seed=5, purpose="test", columns=5)
    assert drawn.dtype == np.float32
    assert drawn.shape == (100_000, 5)
    assert np.abs(drawn.mean(0)).max() < 0.02
    assert np.abs(np.cov(drawn.T) - np.eye(5)).max() < 0.02
    assert abs((drawn**4).mean() - 3) < 0.1


def test_uniforms_fill_the_open_interval():
    drawn = uniforms(np.arange(100_000), seed=5, purpose="test", columns=2)
    assert drawn.min() > 0
    assert drawn.max() < 1
    assert np.abs(drawn.mean(0) - 0.5).max() < 0.01
    assert np.abs(drawn.var(0) - 1 / 12).max() < 0.01


def test_a_draw_depends_on_its_index_alone():
    alone = hash_words(np.array([12_345]), seed=1, purpose="test", columns=3)
    among = hash_words(np.arange(20_000), seed=1, purpose="test", columns=3)
    assert np.array_equal(alone[0], among[12_345])
