"""Representations on one scale, and exactly zero where there is none."""

import numpy as np
import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.data.moments import Moments
from lfm4ads.nn.standardise import Standardiser

DIMS = {"user.ur": 3, "user.cr_ads": 2, "item.ir": 4}


@pytest.fixture
def batch(batch):
    generator = np.random.default_rng(0)
    for name, dim in DIMS.items():
        batch.reps[name] = torch.from_numpy(
            generator.normal(5, 3, (len(batch), dim)).astype(np.float32)
        )
        batch.present[name] = torch.from_numpy((generator.random(len(batch)) < 0.7) * 1.0).float()
    return batch


@pytest.fixture
def standardiser():
    found = Standardiser(DIMS)
    found.set_moments(
        {
            name: Moments(mean=np.arange(dim) + 4.0 + position, std=np.arange(dim) + 2.0 + position)
            for position, (name, dim) in enumerate(DIMS.items())
        }
    )
    return found


@pytest.mark.parametrize("names", [None, ("item.ir",), ("user.cr_ads", "user.ur")])
def test_it_is_the_formula_side_by_side(standardiser, batch, names):
    found = standardiser(batch, names)
    parts = []
    for name in names or DIMS:
        place, steps = list(DIMS).index(name), np.arange(DIMS[name])
        scaled = (batch.reps[name].numpy() - (steps + 4 + place)) / (steps + 2 + place)
        parts.append(scaled * batch.present[name].numpy()[:, None])
    np.testing.assert_allclose(found, np.concatenate(parts, axis=1), rtol=1e-5, atol=1e-6)
    assert found.shape[1] == sum(DIMS[name] for name in names or DIMS)


def test_absent_rows_are_exactly_zero_whatever_is_stored(standardiser, batch):
    absent = batch.present["item.ir"] == 0
    batch.reps["item.ir"][absent] = 1e30
    found = standardiser(batch, ("item.ir",))
    assert torch.equal(found[absent], torch.zeros(int(absent.sum()), 4))
    assert found[~absent].abs().sum(1).min() > 0


def test_outliers_stay_bounded(standardiser, batch):
    batch.reps["user.ur"][0] = torch.tensor([1e9, -1e9, 4.0])
    batch.present["user.ur"][0] = 1.0
    found = standardiser(batch, ("user.ur",))
    assert found[0].tolist() == [8.0, -8.0, -0.5]


def test_without_moments_it_passes_values_through(batch):
    batch.reps["user.ur"].clamp_(-8, 8)
    batch.present["user.ur"].fill_(1.0)
    assert torch.equal(Standardiser(DIMS)(batch, ("user.ur",)), batch.reps["user.ur"])


def test_moments_are_kept_with_the_weights_and_get_no_gradient(standardiser, batch):
    other = Standardiser(DIMS)
    other.load_state_dict(standardiser.state_dict())
    assert torch.equal(other(batch), standardiser(batch))
    assert list(standardiser.parameters()) == []


def test_some_dims_are_read_on_their_own_scale(standardiser, batch):
    some = {"item.ir": [0, 3]}
    moments = {
        name: Moments(mean=np.arange(dim) + 4.0 + position, std=np.arange(dim) + 2.0 + position)
        for position, (name, dim) in enumerate(DIMS.items())
    }
    narrow = Standardiser(DIMS, chosen=some)
    narrow.set_moments(moments)
    assert narrow.dims == DIMS | {"item.ir": 2}
    assert torch.equal(narrow(batch, ("item.ir",)), standardiser(batch, ("item.ir",))[:, [0, 3]])
    assert torch.equal(narrow(batch, ("user.ur",)), standardiser(batch, ("user.ur",)))
    assert narrow.state_dict().keys() == standardiser.state_dict().keys()
    with pytest.raises(UserError, match=r"dim 4 of item\.ir is asked for, which has 4"):
        Standardiser(DIMS, chosen={"item.ir": [4]})
