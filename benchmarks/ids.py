"""A stream of 100 million distinct ids through a managed table of one million rows.

    python -m benchmarks.ids --json

The stream is made on the fly. Of the lookups of a step, half are of a fixed population of ids by a
power law, a tenth are of ids born in the last ``RECENT_STEPS`` steps, and the rest are of ids that
nobody has seen before. It ends when so many distinct ids were seen (``--distinct``).

The best possible is that of a table which knows, at each moment, the true rate of every id and
holds the ids of the largest rates: no policy without knowledge of the draws to come can beat it. An
id's first lookup is never a hit. The last line is one JSON object; rates are per second of CPU time
of one process too, which a busy machine distorts less.
"""

import argparse
import json
import resource
import time
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from lfm4ads.core.ranks import Ranks
from lfm4ads.data.hashing import mix_ids
from lfm4ads.nn.tables import ManagedTable
from lfm4ads.shard.ids import IdMaps, IdRates
from lfm4ads.shard.idspace import IdsConfig

Array = npt.NDArray[np.int64]

EXPONENT = 1.05
FIXED_SHARE, RECENT_SHARE = 0.5, 0.1
RECENT_STEPS = 50
LOOKUPS = 1 << 16
"""Of one step."""


class Stream:
    """Draws steps of ids; the fixed population is as large as a fifth of all distinct ids."""

    def __init__(self, distinct: int) -> None:
        self._rng = np.random.default_rng(5)
        self.population = distinct // 5
        self._seen = np.zeros(self.population, dtype=bool)
        self.born = 0
        self.per_step = LOOKUPS - int(LOOKUPS * FIXED_SHARE) - int(LOOKUPS * RECENT_SHARE)

    @property
    def distinct(self) -> int:
        """Return the number of distinct ids so far."""
        return int(self._seen.sum()) + self.born

    def step(self) -> Array:
        """Return the ids of one step; those of the fixed population come first."""
        span = self.population ** (1 - EXPONENT) - 1
        draws = self._rng.random(int(LOOKUPS * FIXED_SHARE))
        fixed = ((draws * span + 1) ** (1 / (1 - EXPONENT))).astype(np.int64) - 1
        self._seen[fixed] = True
        alive = min(self.born, RECENT_STEPS * self.per_step)
        recent = self.born - self._rng.integers(0, max(alive, 1), int(LOOKUPS * RECENT_SHARE)) - 1
        new = np.arange(self.born, self.born + self.per_step)
        self.born += self.per_step
        # In the first step nothing is recent: ids -1 + population are looked up and never again.
        return np.concatenate([fixed, self.population + np.concatenate([recent, new])])

    def rates(self) -> npt.NDArray[np.float64]:
        """Return the share of lookups of each id of the fixed population, the largest first."""
        edges = np.arange(1, self.population + 1, dtype=np.float64)
        below = (edges ** (1 - EXPONENT) - 1) / (self.population ** (1 - EXPONENT) - 1)
        return FIXED_SHARE * np.diff(below)

    def best_hit_ratio(self, rows: int) -> float:
        """Return the share of lookups whose id is among the ``rows`` ids of the largest rates."""
        fixed = self.rates()
        alive = RECENT_STEPS * self.per_step
        recent = RECENT_SHARE / alive
        larger = min(int((fixed > recent).sum()), rows)
        recent_rows = min(rows - larger, alive)
        rest = rows - larger - recent_rows
        return float(fixed[: larger + rest].sum() + recent_rows * recent)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one policy did."""

    policy: str
    distinct: int
    lookups: int
    hit_ratio: float
    hit_ratio_second_half: float
    best_hit_ratio: float
    best_fixed_hit_ratio: float
    """Of a table that holds the most frequent ids of the fixed population for ever."""
    of_best: float
    """Hits of the second half, as a share of the best possible."""
    evicted_per_lookup: float
    overflow_ratio: float
    filled_ratio: float
    ids_per_second: float
    ids_per_cpu_second: float
    map_bytes: int
    peak_process_bytes: int


def _batch(ids: Array) -> KeyedJaggedTensor:
    lengths = torch.ones(len(ids), dtype=torch.int32)
    values = torch.from_numpy(mix_ids(ids, table="user"))
    return KeyedJaggedTensor(keys=["user"], values=values, lengths=lengths)


def measure(config: IdsConfig, *, rows: int, distinct: int) -> Measured:
    """Send the stream through a table."""
    ranks = Ranks(rank=0, world=1, device=torch.device("cpu"))
    table = ManagedTable(rows=rows, features=("user",), names=("user",))
    maps = IdMaps({"user": table}, config=config, ranks=ranks, evict=lambda _table, _rows: None)
    stream, wall, cpu, halves = Stream(distinct), 0.0, 0.0, list[IdRates]()
    while stream.distinct < distinct:
        for _ in range(max(1, distinct // (4000 * LOOKUPS) or 8)):
            batch = _batch(stream.step())
            started = time.monotonic(), time.process_time()
            maps(batch, training=True)
            wall += time.monotonic() - started[0]
            cpu += time.process_time() - started[1]
        if not halves and stream.distinct > distinct // 2:
            halves.append(maps.rates()["user"])
    halves.append(maps.rates()["user"])
    lookups = sum(one.lookups for one in halves)
    best = stream.best_hit_ratio(rows)
    return Measured(
        policy=config.policy,
        distinct=stream.distinct,
        lookups=lookups,
        hit_ratio=sum(one.hit_ratio * one.lookups for one in halves) / lookups,
        hit_ratio_second_half=halves[-1].hit_ratio,
        best_hit_ratio=best,
        best_fixed_hit_ratio=float(stream.rates()[:rows].sum()),
        of_best=halves[-1].hit_ratio / best,
        evicted_per_lookup=halves[-1].evicted / halves[-1].lookups,
        overflow_ratio=halves[-1].overflow_ratio,
        filled_ratio=halves[-1].filled_ratio,
        ids_per_second=lookups / wall,
        ids_per_cpu_second=lookups / cpu,
        map_bytes=sum(piece.values.nbytes for piece in maps.state().values()),
        peak_process_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def main() -> None:
    """Measure each policy and print what it did."""
    parser = argparse.ArgumentParser(description="A stream of ids through a managed table.")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--distinct", type=int, default=100_000_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--policies", nargs="+", default=["lfu", "lru"], choices=["lfu", "lru"])
    parser.add_argument("--admit-after", type=int, default=1)
    parser.add_argument("--half-life-steps", type=int, default=IdsConfig().half_life_steps)
    words = parser.parse_args()
    torch.set_num_threads(1)
    found: list[Measured] = []
    for policy in words.policies:
        config = IdsConfig(
            policy=policy, admit_after=words.admit_after, half_life_steps=words.half_life_steps
        )
        one = measure(config, rows=words.rows, distinct=words.distinct)
        found.append(one)
        print(
            f"{policy}: {one.lookups:,} lookups of {one.distinct:,} ids, {one.ids_per_second:,.0f}"
            f" ids/s, hits {one.hit_ratio_second_half:.4f} of at best {one.best_hit_ratio:.4f}",
            flush=True,
        )
    if words.json:
        print(json.dumps({"benchmark": "ids", "policies": [asdict(one) for one in found]}))


if __name__ == "__main__":
    main()
