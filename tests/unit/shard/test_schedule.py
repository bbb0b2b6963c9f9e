"""Learning rates over the steps of a run."""

import math

import pytest

from lfm4ads.shard.schedule import ScheduleConfig


def factors(config, steps):
    return [config.factor(step) for step in steps]


def test_the_default_never_moves():
    config = ScheduleConfig()
    assert config.is_constant
    assert factors(config, range(5)) == [1.0] * 5


def test_a_warm_up_grows_in_equal_parts_and_ends_at_the_whole_rate():
    config = ScheduleConfig(warmup_steps=4)
    assert not config.is_constant
    assert factors(config, range(6)) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_decay_runs_from_the_whole_rate_to_the_floor_and_stays_there(kind):
    config = ScheduleConfig(kind=kind, warmup_steps=2, decay_steps=8, floor_ratio=0.2)
    found = factors(config, range(2, 12))
    left = [
        1 - done / 8 if kind == "linear" else (1 + math.cos(math.pi * done / 8)) / 2
        for done in range(9)
    ]
    assert found == pytest.approx([*(0.2 + 0.8 * one for one in left), 0.2])
    assert found[0] == 1.0
    assert found == sorted(found, reverse=True)
    assert factors(config, [0, 1, 2, 10**6]) == pytest.approx([0.5, 1.0, 1.0, 0.2])
    # In the middle of the decay both have half of it behind them; a quarter tells them apart.
    assert found[4] == pytest.approx(0.6)
    assert found[2] == pytest.approx(0.8 if kind == "linear" else 0.6 + 0.4 * math.sqrt(0.5))


def test_a_floor_of_zero_stops_learning():
    config = ScheduleConfig(kind="linear", decay_steps=2, floor_ratio=0.0)
    assert factors(config, range(4)) == [1.0, 0.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"warmup_steps": -1}, "warmup_steps and decay_steps must not be negative"),
        ({"kind": "cosine", "decay_steps": -1}, "warmup_steps and decay_steps must not be"),
        ({"kind": "linear"}, "decay_steps is 0 for kind linear: linear and cosine need"),
        ({"decay_steps": 5}, "decay_steps is 5 for kind constant: .* constant takes none"),
        ({"kind": "cosine", "decay_steps": 5, "floor_ratio": 1.5}, "floor_ratio .* got 1.5"),
    ],
)
def test_impossible_schedules_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        ScheduleConfig(**wrong)
