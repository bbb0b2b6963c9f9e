"""Likes of content: a task whose taste can be at odds with that of clicks.

Dimension key: N rows, A users seen, D interest dimensions.
"""

from dataclasses import dataclass

import numpy as np

from data.adsworld.exposure import Shown
from data.adsworld.hashing import Floats, Ints, hash_words


@dataclass(frozen=True, kw_only=True)
class LikeConfig:
    """Who likes what; a world has no likes unless it is told a rate."""

    rate: float = 0.0
    """Share of content rows that are liked, whether clicked or not; 0: there is no such task."""
    taste: float = 2.0
    """Weight of the taste in the logit, in standard deviations."""
    angle: float = 90.0
    """Degrees by which the interests behind likes are turned from those behind clicks: 0 is the
    same taste, 90 an unrelated one, 180 the opposite."""
    lean: float = 0.0
    """A third of users has so much added to the logit of clicks and taken from that of likes, a
    third the reverse: those who give one kind of feedback, the other, or both alike."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 0.5:
            raise ValueError(f"likes.rate must be in [0, 0.5], got {self.rate}")
        if self.lean and not self.rate:
            raise ValueError("likes.lean needs likes.rate above 0")


def leans(config: LikeConfig, *, seed: int, index: Ints) -> Floats:
    """Return what users (A) add to the logit of clicks and take from that of likes."""
    third_A = hash_words(index, seed=seed, purpose="user lean")[:, 0] % np.uint64(3)
    return np.float32(config.lean) * (third_A.astype(np.float32) - np.float32(1))


def like_causes(shown: Shown, *, config: LikeConfig, seed: int) -> Floats:
    """Return every row's logit (N) before the scenario's intercept.

    The taste is u . R t with R a turn by ``angle`` in each pair of neighbouring dimensions.
    """
    users, user = shown.users, shown.user
    topic_ND = shown.items.topic[shown.item]
    turn = np.deg2rad(config.angle)
    dims = np.arange(topic_ND.shape[1])
    sign_D = np.where(dims % 2 == 0, -1.0, 1.0)
    # The other one of a pair is dims ^ 1.
    turned_ND = np.cos(turn) * topic_ND + np.sin(turn) * sign_D * topic_ND[:, dims ^ 1]
    taste_N = np.einsum("nd,nd->n", users.interest[user], turned_ND.astype(np.float32))
    lean_A = leans(config, seed=seed, index=users.index)
    return np.float32(config.taste) * taste_N - lean_A[user]
