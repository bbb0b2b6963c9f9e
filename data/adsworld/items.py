"""What there is to show: content items and ads that are born, age and fade.

Dimension key: I items alive, D interest dimensions, E ads-only dimensions, V vector length.
"""

from dataclasses import dataclass

import numpy as np

from data.adsworld.hashing import Floats, Ints, normals, permute, uniforms

VECTOR_LENGTH = 16
MAX_TAGS = 4
_TAG_VARIANTS = 8
NUM_TAGS = MAX_TAGS * 4 * _TAG_VARIANTS
_SHARES = {"category": 0.5, "author": 0.1, "own": 0.4}
"""Shares of the variance of an item's topic."""


@dataclass(frozen=True, kw_only=True)
class CatalogConfig:
    """One domain's items: a window of ``count`` indices that moves on by ``new_per_day``."""

    count: int = 4_000
    new_per_day: int = 100
    categories: int = 40
    authors: int = 400
    zipf: float = 0.7
    """The item of rank r is a candidate in proportion to r^-zipf, times its freshness."""
    fade_days: float = 12.0
    """Popularity falls by e in so many days."""

    def __post_init__(self) -> None:
        if not 1 <= self.new_per_day <= self.count:
            raise ValueError(
                f"new_per_day must be in 1..count, got {self.new_per_day} of {self.count}"
            )
        if self.categories < 1 or self.authors < 1 or self.fade_days <= 0:
            raise ValueError("categories, authors and fade_days must be positive")


@dataclass(frozen=True, kw_only=True)
class Items:
    """The items alive on one day; content first, then ads, when both are joined."""

    index: Ints
    """(I), within the domain."""
    key: Ints
    category: Ints
    author: Ints
    tags: Ints
    """Tag ids, the first ``num_tags`` of each row count (I, 4)."""
    num_tags: Ints
    price: Floats
    """NaN where there is none (I)."""
    age_days: Ints
    weight: Floats
    """Popularity, not normalised (I)."""
    topic: Floats
    """Hidden place among interests; inner products with them have unit variance (I, D)."""
    ads_topic: Floats
    """Hidden place among the ads-only tastes; zero for content (I, E)."""
    appeal: Floats
    """Hidden standard normals: what lifts clicks, and what lifts the step after it (I, 2)."""
    delay_hours: Floats
    """Mean time from click to conversion (I)."""
    vector: Floats
    """A noisy linear image of both topics (I, V)."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """What content and ads share: the sizes of hidden spaces and the ids' place in them."""

    seed: int
    key_bits: int
    interest_dim: int
    ads_dim: int
    shared_dim: int
    """Ads live in the first so many interest dimensions; content in all."""


def describe_items(
    config: CatalogConfig,
    *,
    space: Space,
    domain: int,
    first_category: int,
    first_author: int,
    day: int,
) -> Items:
    """Return the items of one domain (0 content, 1 ads) alive on a day."""
    name = ("content", "ads")[domain]
    index = np.arange(config.count, dtype=np.int64) + day * config.new_per_day
    seed = space.seed
    draws = uniforms(index, seed=seed, purpose=f"{name} item", columns=6)
    category, author = _groups(config, draws=draws)
    topic, ads_topic = _topics(
        config, space=space, domain=domain, index=index, groups=(category, author)
    )
    lifetime_days = -(-config.count // config.new_per_day)
    age_days = day - (index // config.new_per_day - lifetime_days + 1)
    appeal = normals(index, seed=seed, purpose=f"{name} appeal", columns=4)
    tags, num_tags = _tags(index, seed=seed, name=name, topic=topic)
    return Items(
        index=index,
        key=permute(2 * index + domain, bits=space.key_bits, seed=seed, purpose="item key"),
        category=category + first_category,
        author=author + first_author,
        tags=tags,
        num_tags=num_tags,
        price=_price(draws[:, 2], level=appeal[:, 2], domain=domain),
        age_days=age_days,
        weight=draws[:, 3] ** -config.zipf * np.exp(-age_days / config.fade_days, dtype=np.float32),
        topic=topic,
        ads_topic=ads_topic,
        appeal=appeal[:, :2],
        delay_hours=np.float32(4.0) * np.exp(np.float32(0.6) * appeal[:, 3]),
        vector=_vector(index, seed=seed, name=name, topics=np.hstack([topic, ads_topic])),
    )


def item_vectors(config: CatalogConfig, *, space: Space, domain: int, index: Ints) -> Floats:
    """Return the vectors (I, V) of items that need not be alive, by their indices alone."""
    name = ("content", "ads")[domain]
    draws = uniforms(index, seed=space.seed, purpose=f"{name} item", columns=2)
    groups = _groups(config, draws=draws)
    topics = _topics(config, space=space, domain=domain, index=index, groups=groups)
    return _vector(index, seed=space.seed, name=name, topics=np.hstack(topics))


def join_items(content: Items, *, ads: Items) -> Items:
    """Put the ads behind the content items, so that one number names any item of the day."""
    both = {
        name: np.concatenate([getattr(content, name), getattr(ads, name)]) for name in vars(ads)
    }
    return Items(**both)


def spectrum(dim: int) -> Floats:
    """Return how far topics spread along each interest (D): few interests matter most.

    Squares sum to one, so a user of unit interests matches items with unit variance.
    """
    decay = np.float32(0.8) ** np.arange(dim, dtype=np.float32)
    return (decay / np.sqrt(np.sum(decay**2))).astype(np.float32)


def price_effect(price: Floats) -> Floats:
    """Return log price in standard units, zero where there is no price."""
    return np.nan_to_num((np.log1p(price) - np.float32(3.5)) / np.float32(0.9))


def _groups(config: CatalogConfig, *, draws: Floats) -> tuple[Ints, Ints]:
    """Return category and author of items from their first two draws."""
    category = np.floor(config.categories * draws[:, 0] ** 1.5).astype(np.int64)
    return category, np.floor(config.authors * draws[:, 1] ** 1.5).astype(np.int64)


def _topics(
    config: CatalogConfig, *, space: Space, domain: int, index: Ints, groups: tuple[Ints, Ints]
) -> tuple[Floats, Floats]:
    """Return the places of items among interests (I, D) and among ads-only tastes (I, E)."""
    name = ("content", "ads")[domain]
    category, author = groups
    dim = (space.interest_dim, space.shared_dim)[domain]
    tables = np.random.default_rng([space.seed, 202, domain])
    by_category = tables.standard_normal((config.categories, dim), dtype=np.float32)
    by_author = tables.standard_normal((config.authors, dim), dtype=np.float32)
    own = normals(index, seed=space.seed, purpose=f"{name} topic", columns=dim)
    topic = (
        np.float32(np.sqrt(_SHARES["category"])) * by_category[category]
        + np.float32(np.sqrt(_SHARES["author"])) * by_author[author]
        + np.float32(np.sqrt(_SHARES["own"])) * own
    )
    topic *= spectrum(dim)
    padding = ((0, 0), (0, space.interest_dim - dim))
    ads_topic = normals(index, seed=space.seed, purpose=f"{name} ads topic", columns=space.ads_dim)
    ads_topic *= np.float32(domain / np.sqrt(space.ads_dim))
    return np.pad(topic, padding).astype(np.float32), ads_topic


def _tags(index: Ints, *, seed: int, name: str, topic: Floats) -> tuple[Ints, Ints]:
    """Return 1 to 4 tags an item (I, 4), (I): tag m spells the signs of two topic dimensions."""
    draws = uniforms(index, seed=seed, purpose=f"{name} tags", columns=1 + 3 * MAX_TAGS)
    place = np.arange(MAX_TAGS)
    dims = topic.shape[1]
    truth = 2 * (topic[:, 2 * place % dims] > 0) + (topic[:, (2 * place + 1) % dims] > 0)
    noisy = np.floor(4 * draws[:, 1 : 1 + MAX_TAGS])
    code = np.where(draws[:, 1 + MAX_TAGS : 1 + 2 * MAX_TAGS] < 0.75, truth, noisy)
    variant = np.floor(_TAG_VARIANTS * draws[:, 1 + 2 * MAX_TAGS :])
    tags = (place * 4 + code) * _TAG_VARIANTS + variant
    order = np.argsort(draws[:, 1 : 1 + MAX_TAGS], axis=1)  # which tags come first is chance
    tags = np.take_along_axis(tags, order, axis=1).astype(np.int64)
    return tags, (1 + np.floor(MAX_TAGS * draws[:, 0])).astype(np.int64)


def _price(chance: Floats, *, level: Floats, domain: int) -> Floats:
    """Return what an ad's ware costs; content and a tenth of the ads have no price."""
    price = np.exp(np.float32(3.5) + np.float32(0.9) * level).round(2).astype(np.float32)
    price[(chance < 0.1) | (domain == 0)] = np.nan
    return price


def _vector(index: Ints, *, seed: int, name: str, topics: Floats) -> Floats:
    width = topics.shape[1]
    image = np.random.default_rng([seed, 303]).standard_normal((width, VECTOR_LENGTH))
    noise = normals(index, seed=seed, purpose=f"{name} vector", columns=VECTOR_LENGTH)
    vector = topics @ image.astype(np.float32) + np.float32(0.5) * noise
    return vector.astype(np.float32)
