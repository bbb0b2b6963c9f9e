"""What users do with what they are shown: true probabilities, and labels drawn from them.

Dimension key: N rows, D interest dimensions, S scenarios.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from data.adsworld.exposure import Shown, hour_effect
from data.adsworld.hashing import Floats, Ints
from data.adsworld.items import price_effect
from data.adsworld.likes import LikeConfig, leans, like_causes
from data.adsworld.scenarios import SCENARIOS, is_ads
from data.adsworld.users import age_effect

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class FeedbackConfig:
    """Base rates, and how far each cause moves a logit (in standard deviations of the cause)."""

    content_click_rate: float = 0.35
    long_view_rate: float = 0.57
    """Of content clicks."""
    ads_click_rate: float = 0.04
    conversion_rate: float = 0.10
    """Of ads clicks."""
    content_taste: float = 2.0
    """Weight of shared interests in content clicks ..."""
    ads_taste: float = 1.05
    """... and in ads clicks."""
    ads_only_taste: float = 0.45
    appeal: float = 0.3
    tilt: float = 0.35
    """How far a scenario stretches single interests."""
    likes: LikeConfig = field(default_factory=LikeConfig)

    def __post_init__(self) -> None:
        rates = {name: value for name, value in vars(self).items() if name.endswith("_rate")}
        for name, rate in rates.items():
            if not 0 < rate <= 0.5 and not (name == "long_view_rate" and 0 < rate < 1):
                raise ValueError(f"{name} must be in (0, 0.5], got {rate}")


@dataclass(frozen=True, kw_only=True)
class Intercepts:
    """Where each scenario's logits stand, solved so that base rates come out as configured."""

    click: Floats
    """(S)."""
    second: Floats
    """Of the step after a click: long view or conversion (S)."""
    like: Floats
    """Zero in ads (S)."""


@dataclass(frozen=True, kw_only=True)
class Causes:
    """Logits of every row before the scenario's intercept (N)."""

    scenario: Ints
    click: Floats
    second: Floats
    like: Floats


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """Outcomes of every row (N)."""

    click_probability: Floats
    second_probability: Floats
    """Of click and the step after it both."""
    click: Flags
    second: Flags
    delay: Ints
    """Milliseconds to the second step, at least 1, meaningful where it happened."""
    like: Flags | None
    """None in a world without likes; meaningful in content."""
    like_probability: Floats | None


def tell_causes(shown: Shown, *, config: FeedbackConfig, seed: int) -> Causes:
    """Sum the causes of a click, and of the step after it, for every row."""
    slots, users, items = shown.slots, shown.users, shown.items
    user, item = shown.user, shown.item
    ads = slots.is_ads.astype(np.float32)
    stretch_SD = _stretch(config, seed=seed, dim=users.interest.shape[1])
    taste = users.interest[user] * stretch_SD[slots.scenario]
    taste = np.einsum("nd,nd->n", taste, items.topic[item])
    ads_taste = np.einsum("ne,ne->n", users.ads_interest[user], items.ads_topic[item])
    appeal = items.appeal[item]
    price = price_effect(items.price)[item]
    fatigue = np.log1p(shown.seen.astype(np.float32))
    age = age_effect(users.age)[user]
    fresh = np.exp(np.float32(-1 / 3) * items.age_days.astype(np.float32))[item]
    weight = np.array([config.content_taste, config.ads_taste], dtype=np.float32)
    click = weight[slots.is_ads.astype(np.int64)] * taste
    click += np.float32(config.ads_only_taste) * ads_taste  # zero for content
    click += np.float32(config.appeal) * appeal[:, 0]
    click += np.float32(0.2) * hour_effect(slots.time) + np.float32(0.3) * fresh
    click += ads * (np.float32(0.35) * age - np.float32(0.8) * fatigue) - np.float32(0.25) * price
    if config.likes.lean:
        click += (1 - ads) * leans(config.likes, seed=seed, index=users.index)[user]
    second = (
        (1 - np.float32(0.5) * ads) * taste
        + np.float32(0.4) * appeal[:, 1]
        - np.float32(0.4) * price
    )
    second += np.float32(0.3) * ads_taste + ads * np.float32(0.3) * age
    like = like_causes(shown, config=config.likes, seed=seed)
    return Causes(scenario=slots.scenario, click=click, second=second, like=like)


def join_causes(parts: Sequence[Causes]) -> Causes:
    """Put the rows of several draws behind one another."""
    names = ("scenario", "click", "second", "like")
    return Causes(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    )


def solve_intercepts(causes: Causes, *, config: FeedbackConfig) -> Intercepts:
    """Find the intercepts that give a pilot day's rows the configured rates."""
    click, second, like = (np.zeros(len(SCENARIOS), dtype=np.float32) for _ in range(3))
    for place, scenario in enumerate(SCENARIOS):
        rows = causes.scenario == place
        rate, after = (
            (config.ads_click_rate, config.conversion_rate)
            if is_ads(scenario)
            else (config.content_click_rate, config.long_view_rate)
        )
        even = np.ones(int(rows.sum()))
        click[place] = _solve(causes.click[rows], rate=rate * scenario.lift, weight=even)
        clicks = _sigmoid(causes.click[rows] + click[place])
        second[place] = _solve(causes.second[rows], rate=after, weight=clicks)
        if config.likes.rate and not is_ads(scenario):
            like[place] = _solve(causes.like[rows], rate=config.likes.rate, weight=even)
    return Intercepts(click=click, second=second, like=like)


def draw_feedback(
    causes: Causes,
    *,
    intercepts: Intercepts,
    rng: np.random.Generator,
    delay_hours: Floats,
    like_rng: np.random.Generator | None = None,
) -> Feedback:
    """Draw labels from their probabilities, and the delay from a mix of hours and days.

    ``delay_hours`` (N) is the mean delay; one in eight takes fifteen times as long. Likes, where
    the world has them, have a stream of their own: the other labels are the same without them.
    """
    rows = len(causes.click)
    click_probability = _sigmoid(causes.click + intercepts.click[causes.scenario])
    after_click = _sigmoid(causes.second + intercepts.second[causes.scenario])
    click = rng.random(rows, dtype=np.float32) < click_probability
    second = click & (rng.random(rows, dtype=np.float32) < after_click)
    hours = rng.standard_exponential(rows, dtype=np.float32) * delay_hours
    hours *= np.where(rng.random(rows, dtype=np.float32) < 0.125, np.float32(15), np.float32(1))
    like_probability = like = None
    if like_rng is not None:
        like_probability = _sigmoid(causes.like + intercepts.like[causes.scenario])
        like = like_rng.random(rows, dtype=np.float32) < like_probability
    return Feedback(
        click_probability=click_probability,
        second_probability=click_probability * after_click,
        click=click,
        second=second,
        delay=1 + (hours * np.float32(3_600_000)).astype(np.int64),
        like=like,
        like_probability=like_probability,
    )


def _stretch(config: FeedbackConfig, *, seed: int, dim: int) -> Floats:
    """Return each scenario's own weights of the interests (S, D), root mean square 1."""
    rng = np.random.default_rng([seed, 404])
    stretch = 1 + config.tilt * rng.standard_normal((len(SCENARIOS), dim), dtype=np.float32)
    return stretch / np.sqrt(np.mean(stretch**2, axis=1, keepdims=True))


def _sigmoid(logit: Floats) -> Floats:
    return np.float32(1) / (np.float32(1) + np.exp(-logit))


def _solve(logit: Floats, *, rate: float, weight: npt.NDArray[np.floating]) -> float:
    """Bisect for the shift that makes the weighted mean probability equal ``rate``."""
    low, high = -30.0, 30.0
    for _ in range(50):
        middle = (low + high) / 2
        is_high = np.average(_sigmoid(logit + np.float32(middle)), weights=weight) > rate
        low, high = (low, middle) if is_high else (middle, high)
    return (low + high) / 2
