"""The world: its parts, its state, and one day of it.

Everything about a user or item is a function of (seed, index, day); the one thing carried from day
to day is the bounded ``History``. Each day draws from its own stream, so day D is the same however
many days follow it.
Dimension key: N rows, A users seen, I items alive.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from data.adsworld.exposure import (
    DAY_MILLISECONDS,
    ExposureConfig,
    Shown,
    count_before,
    draw_slots,
    pick_items,
)
from data.adsworld.feedback import (
    Causes,
    Feedback,
    FeedbackConfig,
    Intercepts,
    draw_feedback,
    join_causes,
    solve_intercepts,
    tell_causes,
)
from data.adsworld.hashing import Floats, Ints
from data.adsworld.history import History, HistoryConfig, extend_history
from data.adsworld.items import (
    CatalogConfig,
    Items,
    Space,
    describe_items,
    item_vectors,
    join_items,
)
from data.adsworld.scenarios import SCENARIOS
from data.adsworld.users import UserConfig, describe_users, draw_users

_PILOT_ROWS = 16_384


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """One world."""

    users: UserConfig = field(default_factory=UserConfig)
    content: CatalogConfig = field(default_factory=CatalogConfig)
    ads: CatalogConfig = field(
        default_factory=lambda: CatalogConfig(
            count=1_000, new_per_day=40, categories=24, authors=150, fade_days=10.0
        )
    )
    exposure: ExposureConfig = field(default_factory=ExposureConfig)
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    history: HistoryConfig = field(default_factory=HistoryConfig)
    key_bits: int = 40
    """User and item keys are spread over [0, 2^key_bits)."""
    shared_dim: int = 6
    """Ads live in the first so many of the interest dimensions."""

    def __post_init__(self) -> None:
        if not 8 <= self.key_bits <= 62:
            raise ValueError(f"key_bits must be in 8..62, got {self.key_bits}")
        if not 1 <= self.shared_dim <= self.users.interest_dim:
            raise ValueError(f"shared_dim must be in 1..interest_dim, got {self.shared_dim}")
        if self.feedback.likes.rate and self.users.interest_dim % 2:
            raise ValueError(
                "feedback.likes turns pairs of interests; make users.interest_dim even, got"
                f" {self.users.interest_dim}"
            )


@dataclass(frozen=True, kw_only=True)
class World:
    """A world with its base rates solved; make it with ``build_world``."""

    config: WorldConfig
    seed: int
    intercepts: Intercepts


@dataclass(frozen=True, kw_only=True)
class Day:
    """One day of the world."""

    start: int
    """Midnight, milliseconds since 1970."""
    shown: Shown
    feedback: Feedback


def build_world(config: WorldConfig, *, seed: int) -> World:
    """Solve the base rates on pilot days whose rows are never written."""
    blank = np.zeros(len(SCENARIOS), dtype=np.float32)
    # As many rows a day as the world has, for repeats tire users; bounded for large worlds.
    content_rows, ads_rows = (
        int(np.clip(rows, 1_024, 65_536))
        for rows in (config.exposure.content_rows, config.exposure.ads_rows)
    )
    size = replace(config.exposure, content_rows=content_rows, ads_rows=ads_rows)
    world = World(
        config=replace(config, exposure=size),
        seed=seed,
        intercepts=Intercepts(click=blank, second=blank, like=blank),
    )
    pilots = min(-(-_PILOT_ROWS // min(content_rows, ads_rows)), 16)
    causes = [_pilot_causes(world, number=number) for number in range(pilots)]
    intercepts = solve_intercepts(join_causes(causes), config=config.feedback)
    return World(config=config, seed=seed, intercepts=intercepts)


def make_day(world: World, *, day: int, start: int) -> Day:
    """Return one day (counted from 0), whose midnight is ``start`` milliseconds since 1970."""
    rng = np.random.default_rng([world.seed, 2, day])
    shares = np.array([scenario.share for scenario in SCENARIOS], dtype=np.float32)
    shown = _show(world, rng=rng, day=day, shares=shares)
    causes = tell_causes(shown, config=world.config.feedback, seed=world.seed)
    likes = world.config.feedback.likes.rate > 0
    feedback = draw_feedback(
        causes,
        intercepts=world.intercepts,
        rng=rng,
        delay_hours=shown.items.delay_hours[shown.item],
        like_rng=np.random.default_rng([world.seed, 3, day]) if likes else None,
    )
    return Day(start=start, shown=shown, feedback=feedback)


def remember_day(history: History, *, day: Day, config: HistoryConfig) -> History:
    """Return the history as of the next midnight."""
    shown = day.shown
    liked = day.feedback.click & ~shown.slots.is_ads
    item = shown.item[liked]
    clicks = History(
        user=shown.users.index[shown.user[liked]],
        item=shown.items.key[item],
        index=shown.items.index[item],
        category=shown.items.category[item],
        time=day.start + shown.slots.time[liked],
    )
    oldest_time = day.start - (config.days - 1) * DAY_MILLISECONDS
    return extend_history(history, config=config, clicks=clicks, oldest_time=oldest_time)


def tell_tastes(world: World, *, history: History, users: Ints) -> Floats:
    """Return what an external model would know of users by their indices (A): vectors (A, V).

    The mean of the unit vectors of the content a user clicked of late; NaN where there is none.
    """
    index_K, place_C = np.unique(history.index, return_inverse=True)
    vector_KV = item_vectors(world.config.content, space=_space(world), domain=0, index=index_K)
    unit_KV = vector_KV / np.linalg.norm(vector_KV, axis=1, keepdims=True)
    starts_A, lengths_A = history.runs(users)
    known = lengths_A > 0
    taste_AV = np.full((len(users), vector_KV.shape[1]), np.nan, dtype=np.float32)
    if known.any():
        firsts, lengths = starts_A[known], lengths_A[known]
        places = np.cumsum(lengths) - lengths
        click = np.repeat(firsts - places, lengths) + np.arange(lengths.sum())
        sums = np.add.reduceat(unit_KV[place_C[click]], places, axis=0)
        taste_AV[known] = sums / lengths[:, None]
    return taste_AV


def num_keys(config: WorldConfig, *, days: int) -> tuple[int, int]:
    """Return how many users and how many items there are over the first ``days`` days."""
    users = config.users.count + (days - 1) * config.users.new_per_day
    items = [
        catalog.count + (days - 1) * catalog.new_per_day for catalog in (config.content, config.ads)
    ]
    return users, sum(items)


def check_keys(config: WorldConfig, *, days: int) -> None:
    """Refuse a world that would run out of keys."""
    users = num_keys(config, days=days)[0]
    catalogs = (config.content, config.ads)
    items = 2 * max(catalog.count + days * catalog.new_per_day for catalog in catalogs)
    if max(users, items) > 2**config.key_bits:
        raise ValueError(
            f"world.key_bits={config.key_bits} gives 2^{config.key_bits} keys, fewer than the "
            f"{max(users, items)} that {days} days need; raise world.key_bits"
        )


def _pilot_causes(world: World, *, number: int) -> Causes:
    """Show rows of the first day evenly over scenarios, so that the small ones are measured too."""
    rng = np.random.default_rng([world.seed, 1, number])
    shown = _show(world, rng=rng, day=0, shares=np.ones(len(SCENARIOS), dtype=np.float32))
    return tell_causes(shown, config=world.config.feedback, seed=world.seed)


def _space(world: World) -> Space:
    config = world.config
    return Space(
        seed=world.seed,
        key_bits=config.key_bits,
        interest_dim=config.users.interest_dim,
        ads_dim=config.users.ads_dim,
        shared_dim=config.shared_dim,
    )


def _alive(world: World, *, day: int) -> Items:
    config, space = world.config, _space(world)
    content = describe_items(
        config.content, space=space, domain=0, first_category=0, first_author=0, day=day
    )
    ads = describe_items(
        config.ads,
        space=space,
        domain=1,
        first_category=config.content.categories,
        first_author=config.content.authors,
        day=day,
    )
    return join_items(content, ads=ads)


def _show(world: World, *, rng: np.random.Generator, day: int, shares: Floats) -> Shown:
    config = world.config
    slots = draw_slots(config.exposure, rng=rng, shares=shares)
    index_N = draw_users(config.users, rng=rng, day=day, rows=len(slots.time))[slots.source]
    index_A, user_N = np.unique(index_N, return_inverse=True)
    users = describe_users(
        config.users, seed=world.seed, key_bits=config.key_bits, day=day, index=index_A
    )
    items = _alive(world, day=day)
    item_N = pick_items(
        slots,
        config=config.exposure,
        rng=rng,
        items=items,
        num_content=config.content.count,
        interest=users.interest,
        user=user_N,
    )
    seen_N = count_before(user_N * len(items.key) + item_N)
    return Shown(slots=slots, user=user_N, item=item_N, seen=seen_N, users=users, items=items)
