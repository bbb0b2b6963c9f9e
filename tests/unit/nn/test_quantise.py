"""Levels of numbers against loops, and what must hold of every kind."""

import numpy as np
import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.nn.quantise import Quantiser

KINDS = ["equal_frequency", "log", "integer"]


def signed_log(x):
    return np.sign(x) * np.log1p(np.abs(x))


def standardise(raw, *, mean=0.0, std=1.0, log=False):
    return (((signed_log(raw) if log else raw) - mean) / std).astype(np.float32)


def fitted(raw, *, kind, levels, mean=0.0, std=1.0, log=False):
    """A quantiser of one feature and how it reads raw numbers."""
    quantiser = Quantiser([mean], [std], [log], kinds=[kind], levels=levels)
    quantiser.fit(standardise(raw, mean=mean, std=std, log=log)[:, None])

    def read(values):
        x = standardise(np.asarray(values, dtype=float), mean=mean, std=std, log=log)
        return quantiser(torch.from_numpy(x)[:, None]).squeeze(1).numpy()

    return read


def draws(rows=2000):
    """Spread over many powers, many zeros, both signs."""
    rng = np.random.default_rng(3)
    raw = np.sign(rng.normal(size=rows)) * np.exp(rng.normal(scale=3, size=rows))
    raw[rng.random(rows) < 0.2] = 0.0
    return raw


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("levels", [2, 10, 64])
def test_every_kind_keeps_order_inside_and_outside_of_the_sample(kind, log, levels):
    sample = np.arange(-5.0, 70.0) if kind == "integer" else draws()
    read = fitted(sample, kind=kind, levels=levels, mean=0.7, std=2.5, log=log)
    values = np.sort(np.concatenate([sample, draws(), 1e3 * draws(), np.linspace(-9, 99, 999)]))
    found = read(values)
    assert found.dtype == np.int64
    assert (np.diff(found) >= 0).all()
    used = np.unique(found)
    assert np.array_equal(used, np.arange(len(used))), "from 0 on, with no gaps"
    # The zeros of the sample are as many as the rows of a fifth of the equal-frequency levels.
    assert 0.75 * levels < len(used) <= levels


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_outside_has_the_first_or_last_level(kind):
    sample = np.arange(40.0)
    read = fitted(sample, kind=kind, levels=8 if kind != "integer" else 40)
    ends = read([sample.min(), sample.max()])
    assert read([-1e9, 1e9, -np.inf, np.inf]).tolist() == [ends[0], ends[1]] * 2


def test_equal_frequency_levels_are_equally_full():
    sample = draws()[draws() != 0][:1600]
    counts = np.bincount(fitted(sample, kind="equal_frequency", levels=16)(sample))
    assert counts.tolist() == [100] * 16


def test_equal_values_share_a_level_and_use_up_no_others():
    sample = np.repeat([0.0, 1.0, 5.0], [70, 20, 10])
    read = fitted(sample, kind="equal_frequency", levels=20)
    assert read([-1, 0, 0.5, 1, 3, 5, 9]).tolist() == [0, 0, 1, 1, 2, 2, 2]


def test_log_levels_are_of_equal_width_by_the_logarithm():
    sample = draws()
    for log in (False, True):
        found = fitted(sample, kind="log", levels=20, mean=-1, std=3, log=log)(sample)
        place = signed_log(sample)
        place = 20 * (place - place.min()) / (place.max() - place.min())
        far = np.abs(place - place.round()) > 1e-3  # from an edge, where float32 decides
        assert far.sum() > 1900
        assert np.array_equal(found[far], np.floor(place[far]))


@pytest.mark.parametrize("log", [False, True])
def test_integers_are_counted_from_the_least(log):
    sample = np.array([3.0, 17.0, 5.0, 90000.0])
    read = fitted(sample, kind="integer", levels=50_000, mean=2.2, std=1.7, log=log)
    values = np.arange(-5, 60_000)
    assert np.array_equal(read(values), np.clip(values - 3, 0, 49_999))
    assert read([3.4, 3.6, 16.9]).tolist() == [0, 1, 14]


def test_negative_integers_too():
    read = fitted(np.array([-4.0, 7.0]), kind="integer", levels=8)
    assert read([-9, -4, -3, 0, 3, 4]).tolist() == [0, 0, 1, 4, 7, 7]


@pytest.mark.parametrize("kind", KINDS)
def test_missing_is_minus_one_and_leaves_the_fit_alone(kind):
    sample = draws()
    with_gaps = np.insert(sample, [0, 700], np.nan)
    clean = fitted(sample, kind=kind, levels=30)
    gappy = fitted(with_gaps, kind=kind, levels=30)
    assert np.array_equal(clean(sample), gappy(sample))
    assert gappy([np.nan, 0.0])[0] == -1
    assert gappy([np.nan, 0.0])[1] >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_feature_never_seen_has_one_level(kind):
    read = fitted(np.full(9, np.nan), kind=kind, levels=30)
    assert read([-1e9, 0, 1e9, np.inf, np.nan]).tolist() == [0, 0, 0, 0, -1]


@pytest.mark.parametrize("kind", ["equal_frequency", "log"])
def test_a_constant_feature_has_one_level(kind):
    assert fitted(np.full(9, 2.0), kind=kind, levels=30)([1, 2, 3]).tolist() == [0, 0, 0]


def test_features_are_read_each_by_its_own_edges():
    sample = np.stack([draws(), np.round(draws()), draws() ** 2], axis=1)
    means, stds, logs = [1.0, 0.0, 4.0], [2.0, 1.0, 9.0], [False, True, True]
    x = np.stack(
        [
            standardise(sample[:, one], mean=means[one], std=stds[one], log=logs[one])
            for one in range(3)
        ],
        axis=1,
    )
    quantiser = Quantiser(means, stds, logs, kinds=KINDS, levels=25)
    quantiser.fit(x)
    found = quantiser(torch.from_numpy(x))
    assert found.shape == (len(x), 3)
    for one, kind in enumerate(KINDS):
        read = fitted(
            sample[:, one], kind=kind, levels=25, mean=means[one], std=stds[one], log=logs[one]
        )
        assert np.array_equal(found[:, one].numpy(), read(sample[:, one]))


def test_levels_travel_with_the_state():
    sample = draws()[:, None].astype(np.float32)
    first, second = (
        Quantiser([0.0], [1.0], [False], kinds=["equal_frequency"], levels=12) for _ in range(2)
    )
    first.fit(sample)
    second.load_state_dict(first.state_dict())
    x = torch.from_numpy(sample)
    assert torch.equal(first(x), second(x))
    assert list(second.parameters()) == []


def test_unfitted_is_refused():
    quantiser = Quantiser([0.0], [1.0], [False], kinds=["log"], levels=12)
    with pytest.raises(UserError, match=r"1 number features has no levels yet; fit it") as raised:
        quantiser(torch.zeros(3, 1))
    assert raised.value.everywhere
    quantiser.load_state_dict(quantiser.state_dict())
    with pytest.raises(UserError, match="no levels yet"):
        quantiser(torch.zeros(3, 1))
    quantiser.fit(np.arange(3.0)[:, None])
    assert quantiser(torch.zeros(3, 1)).tolist() == [[0], [0], [0]]


def test_a_second_fit_replaces_the_first():
    quantiser = Quantiser([0.0], [1.0], [False], kinds=["equal_frequency"], levels=4)
    quantiser.fit(np.arange(8.0)[:, None])
    quantiser.fit(np.array([[5.0], [6.0]]))
    assert quantiser(torch.tensor([[0.0], [5.0], [6.0], [7.0]])).flatten().tolist() == [0, 0, 1, 1]


def test_bad_plans_are_refused():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        Quantiser([0.0], [1.0], [False], kinds=["log"], levels=1)
    with pytest.raises(ValueError, match="got 1, 2, 1 and 1 of them"):
        Quantiser([0.0], [1.0, 1.0], [False], kinds=["log"], levels=4)
