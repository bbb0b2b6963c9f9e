"""Users drift, items come and go, exposure follows taste, and size costs no memory."""

import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from data.adsworld.exposure import ExposureConfig
from data.adsworld.items import CatalogConfig
from data.adsworld.users import UserConfig, describe_users, draw_users
from data.adsworld.world import WorldConfig, build_world, check_keys, make_day

SMALL = WorldConfig(
    users=UserConfig(count=2_000, new_per_day=50),
    content=CatalogConfig(count=300, new_per_day=20),
    ads=CatalogConfig(count=100, new_per_day=10),
    exposure=ExposureConfig(content_rows=8_000, ads_rows=4_000),
)


def interests(day, *, drift_ratio=0.3):
    config = UserConfig(drift_ratio=drift_ratio)
    return describe_users(config, seed=0, key_bits=40, day=day, index=np.arange(2_000)).interest


def likeness(one, other):
    return float(
        np.mean(
            np.sum(one * other, 1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
        )
    )


def test_interests_drift_steadily():
    likenesses = [likeness(interests(0), interests(day)) for day in (0, 1, 4, 8, 14)]
    assert likenesses == sorted(likenesses, reverse=True)
    assert likenesses[1] > 0.99
    assert likenesses[3] < 0.9
    assert likeness(interests(0, drift_ratio=0), interests(14, drift_ratio=0)) == pytest.approx(1)


def test_interests_keep_their_spread():
    spreads = [interests(day).var(0).mean() for day in (0, 30, 300)]
    assert max(spreads) / min(spreads) < 1.1
    assert spreads[0] == pytest.approx(1, abs=0.25)


def test_profile_tells_only_a_little_of_interests():
    users = describe_users(UserConfig(), seed=0, key_bits=40, day=0, index=np.arange(5_000))
    told = np.hstack(
        [
            np.eye(3)[users.gender],
            np.eye(8)[users.city % 8],
            np.eye(6)[users.device % 6],
            users.age[:, None],
            np.ones((5_000, 1)),
        ]
    )
    fitted = told @ np.linalg.lstsq(told, users.interest, rcond=None)[0]
    explained = fitted.var(0).sum() / users.interest.var(0).sum()
    assert 0.05 < explained < 0.3


def test_few_users_have_many_rows_and_newcomers_come():
    config = UserConfig(count=1_000, new_per_day=100)
    index = draw_users(config, rng=np.random.default_rng(0), day=5, rows=200_000)
    assert index.min() == 0
    assert index.max() == 1_499
    counts = np.bincount(index, minlength=1_500)
    assert counts[:100].mean() > 3 * counts[800:1_000].mean()
    assert counts[1_000:].sum() == pytest.approx(200_000 / 3, rel=0.05)


def test_new_items_come_and_old_ones_go_every_day():
    world = build_world(SMALL, seed=0)
    days = [make_day(world, day=number, start=0).shown for number in range(4)]
    for before, after in pairwise(days):
        for domain, fresh in ((False, 20), (True, 10)):
            keys = [
                set(day.items.key[day.item[day.slots.is_ads == domain]]) for day in (before, after)
            ]
            assert len(set(after.items.key) - set(before.items.key)) == 30
            assert len(keys[1] - keys[0]) >= fresh / 2
        ages = after.items.age_days[after.item]
        assert (ages == 0).any()
        assert np.mean(ages < 5) > np.mean(after.items.age_days < 5)


def test_users_are_shown_what_they_like_more_often_than_chance():
    def shown_match(candidates):
        exposure = replace(SMALL.exposure, candidates=candidates)
        world = build_world(replace(SMALL, exposure=exposure), seed=0)
        shown = make_day(world, day=0, start=0).shown
        topics = shown.items.topic[shown.item]
        return float(np.mean(np.sum(shown.users.interest[shown.user] * topics, 1)))

    assert shown_match(3) > shown_match(1) + 0.2


def test_ads_clicks_follow_the_interests_that_content_shares():
    day = make_day(build_world(SMALL, seed=0), day=0, start=0)
    shown, ads = day.shown, day.shown.slots.is_ads
    match = np.sum(shown.users.interest[shown.user] * shown.items.topic[shown.item], 1)
    logit = np.log(day.feedback.click_probability)
    assert np.corrcoef(match[ads], logit[ads])[0, 1] > 0.4
    assert np.corrcoef(match[~ads], logit[~ads])[0, 1] > 0.7


def test_user_and_item_keys_are_distinct():
    shown = make_day(build_world(SMALL, seed=0), day=3, start=0).shown
    assert len(np.unique(shown.users.key)) == len(shown.users.key)
    assert len(np.unique(shown.items.key)) == len(shown.items.key)


def peak_bytes(count, *, key_bits):
    config = replace(SMALL, users=UserConfig(count=count, new_per_day=2**30), key_bits=key_bits)
    world = build_world(config, seed=0)
    tracemalloc.start()
    day = make_day(world, day=2, start=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert day.shown.users.index.max() > count / 2
    assert len(np.unique(day.shown.users.key)) == len(day.shown.users.index)
    return peak


def test_memory_does_not_grow_with_the_number_of_users():
    assert peak_bytes(2**40, key_bits=41) < 1.1 * peak_bytes(2**20, key_bits=41)


def test_a_world_that_would_run_out_of_keys_is_refused():
    check_keys(replace(SMALL, key_bits=12), days=30)
    with pytest.raises(ValueError, match=r"raise world\.key_bits"):
        check_keys(replace(SMALL, key_bits=12), days=60)
