"""One side's representation."""

import pytest
import torch

from lfm4ads.nn.tower import Tower, TowerConfig

NAMES, DIMS = ["user_id", "age"], [8, 3]


def build(config, *, dropout=0.0):
    return Tower(NAMES, DIMS, side="user", config=config, dropout=dropout)


def test_it_is_its_mlps_last_pre_activation():
    tower = build(TowerConfig(hidden=(6,), rep_dim=5))
    x = torch.randn(9, 11)
    first, last = tower.mlp.layers
    torch.testing.assert_close(tower(x), last(first(x).relu()))
    assert (tower.names, tower.dims, tower.width) == (["user_0"], [5], 5)
    assert (tower(x) < 0).any(), "a representation keeps its sign"


def test_the_identity_keeps_fields_as_they_are():
    tower = build(TowerConfig(rep_dim=0))
    x = torch.randn(9, 11)
    assert tower(x) is x
    assert (tower.names, tower.dims, tower.width) == (NAMES, DIMS, 11)
    assert list(tower.parameters()) == []


def test_tokens_cut_a_representation_without_changing_it():
    torch.manual_seed(0)
    whole = build(TowerConfig(hidden=(), rep_dim=12))
    torch.manual_seed(0)
    cut = build(TowerConfig(hidden=(), rep_dim=12, token_dim=4))
    x = torch.randn(9, 11)
    assert torch.equal(whole(x), cut(x))
    assert (cut.names, cut.dims, cut.width) == (["user_0", "user_1", "user_2"], [4, 4, 4], 12)


def test_dropout_acts_in_training_alone():
    tower, x = build(TowerConfig(hidden=(32,), rep_dim=5), dropout=0.5), torch.randn(9, 11)
    assert not torch.equal(tower(x), tower(x))
    tower.eval()
    assert torch.equal(tower(x), tower(x))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"rep_dim": -1}, "must not be negative"),
        ({"token_dim": -4}, "must not be negative"),
        ({"rep_dim": 10, "token_dim": 4}, r"must be a multiple of tower\.token_dim, got 10 and 4"),
        ({"rep_dim": 0, "token_dim": 4}, r"it needs tower\.rep_dim above 0"),
    ],
)
def test_impossible_widths_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        TowerConfig(**wrong)
