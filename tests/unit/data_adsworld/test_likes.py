"""Likes: a second taste at an angle to that of clicks, and users who lean to one of the two."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.adsworld.exposure import ExposureConfig
from data.adsworld.feedback import FeedbackConfig, tell_causes
from data.adsworld.likes import LikeConfig, leans
from data.adsworld.prepare import Config, run
from data.adsworld.users import UserConfig
from data.adsworld.world import WorldConfig, build_world, make_day
from lfm4ads.data.schema import load_schema

ROWS = ExposureConfig(content_rows=8_000, ads_rows=500)
PLAIN = WorldConfig(users=UserConfig(count=2_000), exposure=ROWS)


def world_of(**words):
    feedback = FeedbackConfig(likes=LikeConfig(**{"rate": 0.1} | words))
    return replace(PLAIN, feedback=feedback)


def day_of(config):
    return make_day(build_world(config, seed=1), day=0, start=0)


def test_likes_change_nothing_else():
    one, other = day_of(PLAIN).feedback, day_of(world_of()).feedback
    assert one.like is None
    for name in ("click", "second", "delay", "click_probability", "second_probability"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_they_come_at_their_rate_and_from_their_probability():
    day = day_of(world_of(rate=0.1))
    content = ~day.shown.slots.is_ads
    like = day.feedback.like[content]
    chance = day.feedback.like_probability[content].astype(float)
    assert like.mean() == pytest.approx(0.1, abs=0.015)
    noise = np.sqrt((chance * (1 - chance)).sum()) / len(like)
    assert abs(like.mean() - chance.mean()) < 4 * noise
    top = chance > np.quantile(chance, 0.8)
    assert abs(like[top].mean() - chance[top].mean()) < 0.05


@pytest.mark.parametrize(("angle", "cosine"), [(0.0, 1.0), (60.0, 0.5), (90.0, 0.0), (180.0, -1.0)])
def test_the_angle_is_that_between_the_two_tastes(angle, cosine):
    config = world_of(angle=angle, taste=1.0)
    shown = day_of(config).shown
    causes = tell_causes(shown, config=config.feedback, seed=1)
    content = ~shown.slots.is_ads
    plain = np.einsum("nd,nd->n", shown.users.interest[shown.user], shown.items.topic[shown.item])[
        content
    ]
    found = causes.like[content]
    # Exposure follows clicks, so the rows are no isotropic sample of tastes.
    assert np.corrcoef(plain, found)[0, 1] == pytest.approx(cosine, abs=0.15)
    if abs(cosine) == 1:
        np.testing.assert_allclose(found, cosine * plain, atol=1e-4)


def test_a_third_of_users_leans_each_way_in_clicks_and_in_likes():
    config = LikeConfig(rate=0.1, lean=2.0)
    lean = leans(config, seed=3, index=np.arange(30_000))
    values, counts = np.unique(lean, return_counts=True)
    assert values.tolist() == [-2.0, 0.0, 2.0]
    assert np.abs(counts - 10_000).max() < 400
    day = day_of(world_of(lean=2.0))
    content = ~day.shown.slots.is_ads
    of_user = leans(config, seed=1, index=day.shown.users.index)[day.shown.user][content]
    click, like = day.feedback.click[content], day.feedback.like[content]
    rates = [(click[of_user == one].mean(), like[of_user == one].mean()) for one in (-2, 0, 2)]
    assert rates[0][0] < rates[1][0] < rates[2][0]
    assert rates[0][1] > rates[1][1] > rates[2][1]


def test_the_schema_names_the_tasks_that_are_wanted(tmp_path):
    output = run(
        Config(output=tmp_path, days=2, fit_days=1, tasks=("click", "like"), world=world_of())
    )
    assert list(load_schema(output).tasks) == ["click", "like"]
    day = pq.ParquetDataset(output / "day=20260101").read()
    ads = day["domain"].to_numpy() == 1
    assert np.array_equal(day["like"].is_null().to_numpy(), ads)
    assert "probability_like" in pq.ParquetDataset(output / "oracle" / "day=20260101").schema.names


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"rate": 0.7}, r"likes\.rate must be in \[0, 0\.5\], got 0\.7"),
        ({"rate": 0.0, "lean": 1.0}, r"likes\.lean needs likes\.rate above 0"),
    ],
)
def test_likes_that_cannot_be_are_refused(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        LikeConfig(**words)


def test_worlds_that_cannot_have_them_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"make users\.interest_dim even, got 7"):
        replace(world_of(), users=UserConfig(interest_dim=7), shared_dim=6)
    with pytest.raises(ValueError, match="tasks names like; this world has click, long_view, conv"):
        Config(output=tmp_path, tasks=("like",))
