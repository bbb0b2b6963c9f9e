"""The places where items are shown: shares of traffic and base rates of very different size."""

from dataclasses import dataclass
from typing import Literal

DOMAINS = ("content", "ads")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One place."""

    name: str
    domain: Literal["content", "ads"]
    share: float
    """Of its domain's rows."""
    lift: float
    """Click rate as a multiple of the domain's."""


SCENARIOS = (
    Scenario(name="content_feed", domain="content", share=0.85, lift=0.96),
    Scenario(name="content_search", domain="content", share=0.15, lift=1.23),
    Scenario(name="moments", domain="ads", share=0.60, lift=0.93),
    Scenario(name="channels", domain="ads", share=0.25, lift=0.76),
    Scenario(name="search_ads", domain="ads", share=0.10, lift=1.95),
    Scenario(name="mini_games", domain="ads", share=0.04, lift=1.30),
    Scenario(name="articles", domain="ads", share=0.01, lift=0.60),
)
"""A scenario's id is its place in this tuple; shares, and shares times lifts, sum to 1."""


def is_ads(scenario: Scenario) -> bool:
    """Whether a scenario shows ads."""
    return scenario.domain == "ads"
