"""What a pair of fields adds to an interaction, against the interaction itself."""

import numpy as np
import pytest
import torch

from lfm4ads.analysis.collapse import pair_strength, sub_abundance
from lfm4ads.nn.interactions.build import build_interaction
from lfm4ads.nn.interactions.config import InteractionConfig
from lfm4ads.nn.interactions.layout import FieldLayout
from lfm4ads.train.crossed import pair_forms

DIM = 6
LAYOUT = FieldLayout(names=("a", "b", "c", "d"), dims=(DIM,) * 4, groups=(0, 0, 1, 2))
KINDS = ("fm", "fwfm", "fmfm", "ffm", "gwpfm")


def stirred(kind):
    torch.manual_seed(0)
    block = build_interaction(InteractionConfig(kind=kind), layout=LAYOUT)
    for weight in block.parameters():
        torch.nn.init.normal_(weight)
    return block


@pytest.mark.parametrize("kind", KINDS)
def test_the_terms_of_all_pairs_sum_to_what_the_interaction_gives(kind):
    block = stirred(kind)
    x_BW = torch.randn(5, LAYOUT.width)
    (layer_BD,) = block(x_BW)
    fields = x_BW.double().numpy().reshape(5, 4, DIM)
    total, pairs = np.zeros(5), []
    for (one, other), pair in pair_forms(block, LAYOUT):
        total += np.einsum("bi,ij,bj->b", fields[:, one], pair.form_KK, fields[:, other])
        pairs.append((one, other))
    assert sorted(pairs) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    np.testing.assert_allclose(total, layer_BD.detach().sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["ffm", "gwpfm"])
def test_a_field_shows_another_only_its_part(kind):
    for _, pair in pair_forms(stirred(kind), LAYOUT):
        assert pair.one_JK.shape == pair.other_JK.shape == (2, DIM)
        assert pair.one_JK.sum() == 2


def test_strength_is_the_root_mean_square_over_all_pairs_of_rows():
    draws = np.random.default_rng(0)
    one, other, form = draws.normal(size=(7, 3)), draws.normal(size=(9, 3)), np.diag([1.0, 2, -3])
    wanted = np.sqrt(np.mean((one @ form @ other.T) ** 2))
    found = pair_strength(one.T @ one / 7, other.T @ other / 9, form)
    assert found == pytest.approx(wanted)
    assert np.isnan(pair_strength(None, other.T @ other, form))


def test_a_projection_onto_one_direction_collapses():
    gram = np.diag([4.0, 4.0, 4.0])
    assert sub_abundance(gram, None) == pytest.approx(3)
    assert sub_abundance(gram, np.array([[1.0, 1.0, 0.0]])) == pytest.approx(1)
    assert np.isnan(sub_abundance(None, None))
