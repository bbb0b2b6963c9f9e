"""Who the users are: profile, activity and interests that drift.

Dimension key: N rows, A users, D interest dimensions, E ads-only dimensions.
"""

from dataclasses import dataclass

import numpy as np

from data.adsworld.hashing import Floats, Ints, hash_words, normals, permute, uniforms

NUM_GENDERS, NUM_CITIES, NUM_DEVICES = 3, 300, 120
_KNEE = 0.01
"""The power law is flat below this quantile of users: nobody has a thousand visits a day."""
_AGE_MEAN, _AGE_STD = 34.0, 12.0


@dataclass(frozen=True, kw_only=True)
class UserConfig:
    """The people of the world."""

    count: int = 20_000
    """Users there on the first day; any number up to the key space costs the same."""
    new_per_day: int = 100
    zipf: float = 0.7
    """The user of rank r of n is seen in proportion to (r + n/100)^-zipf."""
    profile_ratio: float = 0.2
    """Share of the variance of interests that age, gender, city and device explain."""
    drift_ratio: float = 0.3
    """Share of the variance of interests that swings with a period of weeks."""
    interest_dim: int = 8
    ads_dim: int = 4
    """Dimensions of taste that only ads touch, so no content row tells of them."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.new_per_day < 0:
            raise ValueError(
                f"users need count >= 1 and new_per_day >= 0, got {self.count}, {self.new_per_day}"
            )
        if not 0 <= self.zipf < 1:
            raise ValueError(f"zipf must be in [0, 1), got {self.zipf}")
        if self.profile_ratio + self.drift_ratio > 1:
            raise ValueError("profile_ratio and drift_ratio are shares; their sum is at most 1")


@dataclass(frozen=True, kw_only=True)
class Users:
    """The users seen on one day, as of that day."""

    index: Ints
    """(A), ascending."""
    key: Ints
    age: Ints
    gender: Ints
    city: Ints
    device: Ints
    activity: Floats
    """Visits a month as a log would count them (A)."""
    interest: Floats
    """Hidden taste that content and ads share, unit variance (A, D)."""
    ads_interest: Floats
    """Hidden taste in ads alone (A, E)."""


def draw_users(config: UserConfig, *, rng: np.random.Generator, day: int, rows: int) -> Ints:
    """Return the user index of every row (N).

    A cohort is the first day's users or the newcomers of one later day. Rows fall on cohorts by
    size, and within a cohort by the inverse of the power law's distribution function: no table.
    """
    newcomers = day * config.new_per_day
    cohort_N = rng.random(rows) * (config.count + newcomers) - config.count
    is_new_N = cohort_N >= 0
    step = max(config.new_per_day, 1)
    start_N = np.where(is_new_N, config.count + np.floor(cohort_N / step) * step, 0.0)
    size_N = np.where(is_new_N, float(step), float(config.count))
    power = 1 - config.zipf
    low, high = _KNEE**power, (1 + _KNEE) ** power
    rank_N = size_N * ((low + rng.random(rows) * (high - low)) ** (1 / power) - _KNEE)
    return (start_N + np.clip(np.floor(rank_N), 0, size_N - 1)).astype(np.int64)


def describe_users(config: UserConfig, *, seed: int, key_bits: int, day: int, index: Ints) -> Users:
    """Return what is true of these users (A indices, ascending) on this day."""
    words = hash_words(index, seed=seed, purpose="user profile", columns=4)
    gender = (words[:, 0] % np.uint64(100)).astype(np.int64)
    gender = (gender >= 46).astype(np.int64) + (gender >= 94)
    quantile = (words[:, 1] >> np.uint64(11)).astype(np.float64) * 2.0**-53
    city = np.floor(NUM_CITIES * quantile**2).astype(np.int64)
    device = (words[:, 2] % np.uint64(NUM_DEVICES)).astype(np.int64)
    age = _AGE_MEAN + _AGE_STD * normals(index, seed=seed, purpose="user age", columns=1)[:, 0]
    age = np.clip(np.rint(age), 14, 80).astype(np.int64)
    return Users(
        index=index,
        key=permute(index, bits=key_bits, seed=seed, purpose="user key"),
        age=age,
        gender=gender,
        city=city,
        device=device,
        activity=_activity(config, seed=seed, index=index),
        interest=_interest(
            config, seed=seed, day=day, index=index, profile=(age, gender, city, device)
        ),
        ads_interest=normals(index, seed=seed, purpose="user ads", columns=config.ads_dim),
    )


def age_effect(age: Ints) -> Floats:
    """Return age in standard units, squashed, rising with age: an ordinal effect."""
    return np.tanh((age - _AGE_MEAN) / _AGE_STD).astype(np.float32)


def _activity(config: UserConfig, *, seed: int, index: Ints) -> Floats:
    newcomer = index - config.count
    step = max(config.new_per_day, 1)
    rank = np.where(newcomer >= 0, newcomer % step, index)
    size = np.where(newcomer >= 0, step, config.count)
    level = 8 * ((rank + 0.5) / size + _KNEE) ** -config.zipf
    noise = normals(index, seed=seed, purpose="user activity", columns=1)[:, 0]
    return np.rint(level * np.exp(0.4 * noise)).astype(np.float32)


def _interest(
    config: UserConfig, *, seed: int, day: int, index: Ints, profile: tuple[Ints, Ints, Ints, Ints]
) -> Floats:
    """Sum what the profile tells, a constant and a slow swing to unit variance (A, D).

    A swing b cos(wt) + c sin(wt) with normal b and c is a stationary Gaussian process like AR(1),
    but day t needs no day before it.
    """
    dim = config.interest_dim
    age, gender, city, device = profile
    tables = np.random.default_rng([seed, 101])
    by_gender, by_city, by_device, by_age = (
        tables.standard_normal((count, dim), dtype=np.float32) for count in (NUM_GENDERS, 8, 6, 1)
    )
    told = by_gender[gender] + by_city[city % 8] + by_device[device % 6]
    told += age_effect(age)[:, None] * by_age
    parts = normals(index, seed=seed, purpose="user interest", columns=3 * dim)
    period = 20 + 50 * uniforms(index, seed=seed, purpose="user period", columns=dim)
    angle = np.float32(2 * np.pi * day) / period
    swing = parts[:, dim : 2 * dim] * np.cos(angle) + parts[:, 2 * dim :] * np.sin(angle)
    constant_ratio = 1 - config.profile_ratio - config.drift_ratio
    interest = np.sqrt(config.profile_ratio / 3.6) * told
    interest += np.sqrt(constant_ratio) * parts[:, :dim]
    interest += np.sqrt(config.drift_ratio) * swing
    return interest.astype(np.float32)
