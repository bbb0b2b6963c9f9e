"""Factorisation machines against loops over pairs of fields."""

from functools import partial

import pytest
import torch

from lfm4ads.nn.interactions.fm import Fm, FmFm, WeightedFm
from tests.unit.nn.interactions.fields import (
    assert_equal,
    by_pairs,
    differ,
    draw,
    draw_weights,
    make_layout,
)

FWFM = partial(WeightedFm, kind="fwfm")
DIAGONAL = partial(WeightedFm, kind="fmfm")

LAYOUT = make_layout(5, dim=3)


def fm_by_loops(x, layout):
    return by_pairs(x, layout, term=lambda v, i, j, _: v[i] * v[j])


@pytest.mark.parametrize("num_fields", [2, 5])
def test_fm_is_the_sum_of_products(num_fields):
    layout = make_layout(num_fields, dim=3)
    x = draw(layout)
    assert_equal(Fm(layout)(x)[0], fm_by_loops(x, layout))


def test_the_components_of_fm_sum_to_the_papers_scalar():
    x = draw(LAYOUT)
    wanted = by_pairs(x, LAYOUT, term=lambda v, i, j, _: torch.dot(v[i], v[j]))
    assert_equal(Fm(LAYOUT)(x)[0].sum(1), wanted)


@pytest.mark.parametrize("num_fields", [2, 5])
def test_fwfm_weighs_each_pair(num_fields):
    layout = make_layout(num_fields, dim=3)
    x, fwfm = draw(layout), draw_weights(FWFM(layout))
    wanted = by_pairs(x, layout, term=lambda v, i, j, pair: fwfm.weight[pair] * v[i] * v[j])
    assert_equal(fwfm(x)[0], wanted)


@pytest.mark.parametrize("num_fields", [2, 5])
def test_fmfm_puts_a_matrix_between_each_pair(num_fields):
    layout = make_layout(num_fields, dim=3)
    x, fmfm = draw(layout), draw_weights(FmFm(layout))
    wanted = by_pairs(x, layout, term=lambda v, i, j, pair: (v[i] @ fmfm.weight[pair]) * v[j])
    assert_equal(fmfm(x)[0], wanted)


def test_diagonal_fmfm_is_fmfm_with_diagonal_matrices():
    x, diagonal, full = (
        draw(LAYOUT),
        draw_weights(DIAGONAL(LAYOUT)),
        FmFm(LAYOUT).double(),
    )
    wanted = by_pairs(x, LAYOUT, term=lambda v, i, j, pair: diagonal.weight[pair] * v[i] * v[j])
    assert_equal(diagonal(x)[0], wanted)
    full.weight.data = torch.diag_embed(diagonal.weight.data)
    assert_equal(full(x)[0], wanted)


@pytest.mark.parametrize("kind", [FWFM, FmFm, DIAGONAL])
def test_each_starts_as_the_fm_and_one_pairs_weight_moves_it(kind):
    x, module = draw(LAYOUT), kind(LAYOUT).double()
    fm = Fm(LAYOUT)(x)[0]
    assert_equal(module(x)[0], fm)
    module.weight.data[7] *= 2  # the pair (1, 4)
    v = x.view(-1, 5, 3)
    assert differ(module(x)[0], fm)
    assert_equal(module(x)[0] - fm, v[:, 1] * v[:, 4])
