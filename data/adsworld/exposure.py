"""Who is shown what, where and when on one day.

Dimension key: N rows, A users seen, I items alive, M candidates, H hours, S scenarios.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.adsworld.hashing import Floats, Ints
from data.adsworld.items import Items
from data.adsworld.scenarios import SCENARIOS, is_ads
from data.adsworld.users import Users

DAY_MILLISECONDS = 86_400_000
_HOURS = np.array(
    [14, 8, 5, 4, 4, 6, 12, 22, 30, 34, 36, 42, 50, 44, 38, 36, 38, 44, 54, 66, 76, 80, 64, 34],
    dtype=np.float64,
)
"""Relative traffic of the hours of a day."""


@dataclass(frozen=True, kw_only=True)
class ExposureConfig:
    """How items find users."""

    content_rows: int = 60_000
    """Rows of the content domain a day."""
    ads_rows: int = 20_000
    candidates: int = 3
    """Drawn by popularity; the one nearest to the user's interests is shown ..."""
    explore_ratio: float = 0.3
    """... but in so many cases one of them at random."""
    repeat_ratio: float = 0.15
    """Share of ads rows that show a user an ad of earlier that day again."""

    def __post_init__(self) -> None:
        if min(self.content_rows, self.ads_rows) < 1:
            raise ValueError(
                "content_rows and ads_rows must be at least 1, "
                f"got {self.content_rows} and {self.ads_rows}"
            )
        if self.candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {self.candidates}")
        if not (0 <= self.explore_ratio <= 1 and 0 <= self.repeat_ratio < 1):
            raise ValueError("explore_ratio must be in [0, 1] and repeat_ratio in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Rows before anything is shown in them, in time order."""

    time: Ints
    """Milliseconds since midnight, ascending (N)."""
    scenario: Ints
    is_ads: npt.NDArray[np.bool_]
    source: Ints
    """The row whose user and item a row shows: itself unless it repeats an earlier one (N)."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """All rows of one day in time order, before anyone reacts, and what they refer to."""

    slots: Slots
    user: Ints
    """Place among ``users`` (N)."""
    item: Ints
    """Place among ``items`` (N)."""
    seen: Ints
    """Earlier exposures of the same user and item that day (N)."""
    users: Users
    items: Items


def draw_slots(config: ExposureConfig, *, rng: np.random.Generator, shares: Floats) -> Slots:
    """Draw when and where rows are shown, and which repeat earlier ones.

    ``shares`` (S) splits each domain's rows over its scenarios.
    """
    rows = config.content_rows + config.ads_rows
    ads_N = np.arange(rows) >= config.content_rows
    rng.shuffle(ads_N)
    chance_N = rng.random(rows, dtype=np.float32)
    scenario_N = np.zeros(rows, dtype=np.int64)
    for domain_N, domain in ((~ads_N, False), (ads_N, True)):
        places = np.array([is_ads(place) == domain for place in SCENARIOS])
        edges = np.cumsum(shares[places] / shares[places].sum())[:-1].astype(np.float32)
        scenario_N[domain_N] = np.flatnonzero(places)[np.searchsorted(edges, chance_N[domain_N])]
    source_N = _repeat(ads_N, rng=rng, ratio=config.repeat_ratio)
    return Slots(time=_times(rng, rows=rows), scenario=scenario_N, is_ads=ads_N, source=source_N)


def pick_items(
    slots: Slots,
    *,
    config: ExposureConfig,
    rng: np.random.Generator,
    items: Items,
    num_content: int,
    interest: Floats,
    user: Ints,
) -> Ints:
    """Return the item shown in every row (N), as a place among the day's items.

    ``interest`` is (A, D) and ``user`` the place of every row's user in it (N).
    """
    rows = len(slots.time)
    tables = _tables(items.weight, num_content=num_content, rng=rng)
    row = slots.is_ads.astype(np.int64) * tables.shape[1]
    interest_ND = interest[user]
    best_N = np.zeros(rows, dtype=np.int64)
    score_N = np.full(rows, -np.inf, dtype=np.float32)
    explores_N = rng.random(rows, dtype=np.float32) < config.explore_ratio
    for _ in range(config.candidates):
        candidate_N = tables.reshape(-1)[
            row + rng.integers(0, tables.shape[1], rows, dtype=np.int32)
        ]
        match_N = np.einsum("nd,nd->n", interest_ND, items.topic[candidate_N])
        wins_N = (match_N > score_N) & ~(explores_N & np.isfinite(score_N))
        best_N = np.where(wins_N, candidate_N, best_N)
        score_N = np.where(wins_N, match_N, score_N)
    return best_N[slots.source]


def count_before(pair_N: Ints) -> Ints:
    """Return for every row how many earlier rows hold the same value (N)."""
    order_N = np.argsort(pair_N, kind="stable")
    sorted_N = pair_N[order_N]
    place_N = np.arange(len(pair_N))
    starts_N = np.ones(len(pair_N), dtype=bool)
    starts_N[1:] = sorted_N[1:] != sorted_N[:-1]
    first_N = np.maximum.accumulate(np.where(starts_N, place_N, 0))
    counts_N = np.empty_like(place_N)
    counts_N[order_N] = place_N - first_N
    return counts_N


def hour_effect(time: Ints) -> Floats:
    """Return a wave that peaks at nine in the evening, for milliseconds since midnight."""
    angle = (time / DAY_MILLISECONDS - 21 / 24) * (2 * np.pi)
    return np.cos(angle).astype(np.float32)


def _times(rng: np.random.Generator, *, rows: int) -> Ints:
    """Return sorted milliseconds since midnight that follow the hours' traffic (N)."""
    edges = np.concatenate([[0.0], np.cumsum(_HOURS) / _HOURS.sum()])
    hours_N = np.interp(np.sort(rng.random(rows)), edges, np.arange(25.0))
    return np.minimum(hours_N * (DAY_MILLISECONDS / 24), DAY_MILLISECONDS - 1).astype(np.int64)


def _repeat(ads_N: npt.NDArray[np.bool_], *, rng: np.random.Generator, ratio: float) -> Ints:
    """Let some ads rows point at an earlier one, a quarter of which draw all repeats."""
    source_N = np.arange(len(ads_N))
    ads_rows = source_N[ads_N]
    repeats = rng.random(len(ads_rows)) < ratio
    lures = ~repeats & (rng.random(len(ads_rows)) < 0.25)
    known = np.cumsum(lures)  # lures up to a row; a repeat is none itself
    repeats &= known > 0
    chosen = np.floor(rng.random(len(ads_rows)) * known).astype(np.int64)
    source_N[ads_rows[repeats]] = ads_rows[lures][chosen[repeats]]
    return source_N


def _tables(weight_I: Floats, *, num_content: int, rng: np.random.Generator) -> Ints:
    """Return a row of items for each domain in which every item stands in proportion to its weight.

    A uniform place in the row is then a draw by popularity in constant time. The jitter is fresh
    each day, so an item too rare for a place of its own still has its chance.
    """
    size = 1 << int(np.ceil(np.log2(16 * len(weight_I))))
    places = (np.arange(size) + rng.random()) / size
    rows = []
    for first, weight in ((0, weight_I[:num_content]), (num_content, weight_I[num_content:])):
        edges = np.cumsum(weight, dtype=np.float64)
        rows.append(first + np.searchsorted(edges[:-1] / edges[-1], places, side="right"))
    return np.stack(rows)
