"""Clicks a policy collects when new ads keep arriving and it learns only from what it showed.

    python -m benchmarks.bandit [--seeds 5] [--json]

The world, the same for every policy of a seed: each round a batch of users arrives and is shown one
of the live ads each; new ads enter every round and leave after a fixed life. A click is a coin with
logit = base + appeal of the ad + taste of the user . vector of the ad. The model sees the user's
taste and the ad's vector; the appeal (exponential: most ads are dull, few are excellent) it can
only learn by showing the ad, since vectors are random and tell of it nothing. The coin of (round,
user, ad) is drawn once, so that policies which show the same ad see the same outcome.

That is a world in which exploring pays: appeal is heavy-tailed and unknown at the start, an ad
lives long enough to repay its trial, and a new ad's first showing costs one impression. It assumes
that an impression costs the same whatever is shown, that feedback is there by the next round, and
that ads neither tire nor compete by bids. Where appeal follows from the features, or ads live for a
round or two, greedy loses nothing.

After every round the model (``Mlp`` with a spectral bound, ``SngpHeads``) trains on a sample of all
rows its own policy showed, with the prior of the Laplace precision as penalty, and its precision is
summed anew over all of them. The hidden layer is one linear map: with two, hidden rows of ads never
shown lay so near those shown that a deviation of 0.35 logits stood beside an error of 1.5; with one
it was 0.58 beside 0.2 for ads shown. Intervals are Student's t over seeds of the paired differences
to greedy. The world was chosen on seeds 100 to 104; those reported start at 0. There Thompson
sampling earned 3,227 clicks more than greedy's 4,116 of 12,000 impressions [418, 6,035], and UCB
1,783 [-1,841, 5,407]: scores of a round are fixed before its feedback, so UCB, which draws nothing,
spends a whole round of users on the same new ad.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import stdtrit
from torch import Tensor, nn

from lfm4ads.nn.mlp import Mlp
from lfm4ads.nn.sngp import SngpHeads
from lfm4ads.train.explore import ExploreConfig, ranking_scores

POLICIES: dict[str, ExploreConfig | None] = {
    "random": None,
    "greedy": ExploreConfig(kind="greedy"),
    "ucb": ExploreConfig(kind="ucb"),
    "thompson": ExploreConfig(kind="thompson"),
}


@dataclass(frozen=True, kw_only=True)
class World:
    """Sizes of the simulated traffic and of the model."""

    rounds: int = 40
    users: int = 300
    """Arrivals, and so impressions, of a round."""
    first_ads: int = 20
    new_ads: int = 1
    """Entering every round."""
    life_rounds: int = 30
    dim: int = 16
    """Width of a user's taste and of an ad's vector."""
    match: float = 0.5
    """Standard deviation over users of taste . vector, in logits."""
    base_logit: float = -4.0
    appeal: float = 1.0
    """Mean and standard deviation of an ad's appeal, in logits."""
    hidden: tuple[int, ...] = (64,)
    features: int = 128
    ridge: float = 0.8
    """One over the variance of true logits over ads and users, appeal^2 + match^2."""
    learning_rate: float = 2e-3
    steps: int = 40
    """Of training after each round."""
    batch_size: int = 256


@dataclass(frozen=True)
class Traffic:
    """What happens in one seed whatever is shown. Dimension key: A ads, U users, D width."""

    vectors_AD: Tensor
    appeal_A: Tensor
    first_round_A: Tensor
    """Round in which the ad enters."""


def draw_traffic(world: World, *, seed: int) -> Traffic:
    """Draw the ads of one seed."""
    generator = torch.Generator().manual_seed(seed)
    entering = [world.first_ads] + [world.new_ads] * (world.rounds - 1)
    first_round_A = torch.repeat_interleave(torch.arange(world.rounds), torch.tensor(entering))
    num_ads = len(first_round_A)
    vectors_AD = torch.randn(num_ads, world.dim, generator=generator)
    uniform_A = torch.rand(num_ads, generator=generator)
    return Traffic(vectors_AD, -world.appeal * torch.log1p(-uniform_A), first_round_A)


class Model(nn.Module):
    """A click model of [taste ; vector ; taste * vector]."""

    def __init__(self, world: World, *, seed: int) -> None:
        super().__init__()
        self.mlp = Mlp(3 * world.dim, world.hidden, spectral=2.0)
        self.heads = SngpHeads(
            self.mlp.width,
            scenarios=1,
            tasks=1,
            features=world.features,
            seed=seed,
            ridge=world.ridge,
        )
        nn.init.constant_(self.heads.bias, world.base_logit + world.appeal)

    def hidden(self, taste_BD: Tensor, vector_BD: Tensor) -> Tensor:
        """Return what the head reads (B, H)."""
        return self.mlp(torch.cat([taste_BD, vector_BD, taste_BD * vector_BD], dim=1))[-1]

    def logits(self, hidden_BH: Tensor) -> Tensor:
        """Return the logits (B,) of the only task."""
        return self.heads(hidden_BH, _zeros(hidden_BH))[:, 0]


def _zeros(hidden_BH: Tensor) -> Tensor:
    return torch.zeros(len(hidden_BH), dtype=torch.long)


class Learner:
    """A model, and the rows that its own policy showed."""

    def __init__(self, world: World, *, seed: int) -> None:
        torch.manual_seed(seed)
        self._world = world
        self._model = Model(world, seed=seed)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=world.learning_rate)
        self._generator = torch.Generator().manual_seed(seed)
        self._rows: list[tuple[Tensor, Tensor, Tensor]] = []

    @torch.no_grad()
    def score(self, taste_UD: Tensor, vectors_AD: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance (U, A) of the logit of every user with every ad."""
        self._model.eval()
        num_users, num_ads = len(taste_UD), len(vectors_AD)
        hidden_BH = self._model.hidden(
            taste_UD.repeat_interleave(num_ads, dim=0), vectors_AD.repeat(num_users, 1)
        )
        shape = (num_users, num_ads)
        variance_B = self._model.heads.variance(hidden_BH)[:, 0]
        return self._model.logits(hidden_BH).view(shape), variance_B.view(shape)

    def learn(self, taste_UD: Tensor, vector_UD: Tensor, click_U: Tensor) -> None:
        """Add the rows of a round, train on a sample of all, sum the precision over all."""
        self._rows.append((taste_UD, vector_UD, click_U))
        taste, vector, click = (torch.cat(parts) for parts in zip(*self._rows, strict=True))
        self._model.train()
        for _ in range(self._world.steps):
            size = (self._world.batch_size,)
            picked = torch.randint(len(click), size, generator=self._generator)
            logits = self._model.logits(self._model.hidden(taste[picked], vector[picked]))
            loss = F.binary_cross_entropy_with_logits(logits, click[picked])
            weight = self._model.heads.shared + self._model.heads.delta
            loss = loss + self._world.ridge / (2 * len(click)) * weight.square().sum()
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        self._model.eval()
        with torch.no_grad():
            hidden_BH = self._model.hidden(taste, vector)
        heads = self._model.heads
        heads.reset_precision()
        heads.observe(hidden_BH, _zeros(hidden_BH), torch.ones(len(click), 1))
        heads.settle()


def play(world: World, *, policy: ExploreConfig | None, seed: int) -> np.ndarray:
    """Return the clicks of every round under a policy; None shows ads at random."""
    traffic = draw_traffic(world, seed=seed)
    learner = Learner(world, seed=seed)
    arrivals = torch.Generator().manual_seed(seed + 1_000_000)
    choices = torch.Generator().manual_seed(seed + 2_000_000)
    clicks = np.zeros(world.rounds)
    for position in range(world.rounds):
        age_A = position - traffic.first_round_A
        live_A = torch.nonzero((age_A >= 0) & (age_A < world.life_rounds)).squeeze(1)
        taste_UD = torch.randn(world.users, world.dim, generator=arrivals)
        taste_UD *= world.match / math.sqrt(world.dim)
        vectors_AD = traffic.vectors_AD[live_A]
        truth_UA = torch.sigmoid(
            world.base_logit + traffic.appeal_A[live_A] + taste_UD @ vectors_AD.T
        )
        coins_UA = torch.rand(truth_UA.shape, generator=arrivals) < truth_UA
        shown_U = torch.randint(len(live_A), (world.users,), generator=choices)
        if policy is not None:
            mean_UA, variance_UA = learner.score(taste_UD, vectors_AD)
            noise_UA = torch.randn(mean_UA.shape, generator=choices)
            scores_UA = ranking_scores(mean_UA, variance_UA, config=policy, noise_N=noise_UA)
            shown_U = scores_UA.argmax(dim=1)
        click_U = coins_UA[torch.arange(world.users), shown_U].float()
        clicks[position] = click_U.sum().item()
        if policy is not None:
            learner.learn(taste_UD, vectors_AD[shown_U], click_U)
    return clicks


def compare(world: World, *, seeds: int) -> dict[str, Any]:
    """Play every policy on the traffic of every seed."""
    clicks = {
        name: np.array([play(world, policy=policy, seed=seed).sum() for seed in range(seeds)])
        for name, policy in POLICIES.items()
    }
    return {
        "seeds": seeds,
        "impressions": world.rounds * world.users,
        "clicks": {name: values.tolist() for name, values in clicks.items()},
        "mean_clicks": {name: float(values.mean()) for name, values in clicks.items()},
        "over_greedy": {
            name: paired(values - clicks["greedy"])
            for name, values in clicks.items()
            if name != "greedy"
        },
    }


def paired(difference_S: np.ndarray) -> dict[str, float | None]:
    """Return the mean of paired differences with Student's 95 % interval; null with one seed."""
    count, mean = len(difference_S), float(difference_S.mean())
    if count < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(stdtrit(count - 1, 0.975) * difference_S.std(ddof=1) / math.sqrt(count))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def main() -> None:
    """Print clicks by policy and their difference to greedy; with --json one line of JSON."""
    parser = argparse.ArgumentParser(description="Exploration against greedy with cold ads.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as the stages do
    began = time.process_time()
    result = compare(World(), seeds=arguments.seeds)
    result["cpu_seconds"] = round(time.process_time() - began, 1)
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{result['impressions']:,} impressions, {arguments.seeds} seeds")
    for name, mean in result["mean_clicks"].items():
        gap = result["over_greedy"].get(name)
        words = "" if gap is None else f"  over greedy {_interval(gap)}"
        print(f"{name:9} {mean:8.1f} clicks{words}")


def _interval(gap: dict[str, float | None]) -> str:
    if gap["low"] is None:
        return f"{gap['mean']:+.1f} (one seed: no interval)"
    return f"{gap['mean']:+.1f} [{gap['low']:+.1f}, {gap['high']:+.1f}]"


if __name__ == "__main__":
    main()
