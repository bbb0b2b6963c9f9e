"""A least-squares map from an old upstream's vectors to a new one's, and states carried through it.

Old states are sums of old vectors. If new ~ A old + b for each event, then for the sums, exactly,

    sum_j w_j (A c_j + b) = A S + b Z

so states of all the past move to the new upstream for the price of a few days of both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import solve

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.decay import Float32s, Float64s, State
from lfm4ads.data.latest import Latest
from lfm4ads.data.side import SideStates


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine:
    """new = matrix @ old + bias, and how well it fitted."""

    matrix: Float64s
    """(E, D), from D old to E new dimensions."""
    bias: Float64s
    """(E,)."""
    r2: float
    """Explained share of the new vectors' variance, over all dimensions, on the rows of the fit."""
    rows: int


@dataclass(kw_only=True)
class NormalEquations:
    """Sums over rows of this rank of x, y, x x', x y' and y y, in float64."""

    old_dim: int
    new_dim: int
    sums: dict[str, Float64s] = field(init=False)

    def __post_init__(self) -> None:
        old, new = self.old_dim, self.new_dim
        shapes = {"n": (1,), "x": (old,), "y": (new,), "xx": (old, old), "xy": (old, new)}
        self.sums = {name: np.zeros(shape) for name, shape in (shapes | {"yy": (new,)}).items()}

    def add(self, old: Float32s, new: Float32s) -> None:
        """Add rows: old (N, D) and new (N, E) vectors of the same events."""
        x, y = old.astype(np.float64), new.astype(np.float64)
        parts = {"n": np.array([float(len(x))]), "x": x.sum(0), "y": y.sum(0)}
        parts |= {"xx": x.T @ x, "xy": x.T @ y, "yy": np.square(y).sum(0)}
        for name, part in parts.items():
            self.sums[name] += part

    def fit(self, ranks: Ranks, *, ridge: float, name: str) -> Affine:
        """Return the map fitted to the rows of all ranks. Collective.

        Args:
            ranks: The job's processes.
            ridge: Added to the old dimensions' variances, as a share of their mean; the bias is
                free of it.
            name: The representation's, for the sentence that refuses too few rows.
        """
        sums = {key: ranks.sum(part) for key, part in self.sums.items()}
        rows = int(sums["n"][0])
        if rows <= self.old_dim + 1:
            raise UserError(
                f"carry has {rows} rows to fit {name}, which has {self.old_dim} old dimensions;"
                " name more carry.days",
                everywhere=True,
            )
        x, y = sums["x"] / rows, sums["y"] / rows
        xx, xy = sums["xx"] / rows - np.outer(x, x), sums["xy"] / rows - np.outer(x, y)
        yy = sums["yy"] / rows - y**2
        mean_variance = float(np.trace(xx)) / self.old_dim
        # Vectors that never change are mapped to the mean of the new ones.
        penalty = ridge * mean_variance if mean_variance > 0 else 1.0
        weights = solve(xx + penalty * np.eye(self.old_dim), xy, assume_a="pos")
        error = yy - 2 * (weights * xy).sum(0) + (weights * (xx @ weights)).sum(0)
        total = float(yy.sum())
        r2 = 1 - float(error.sum()) / total if total > 0 else 1.0
        return Affine(matrix=weights.T, bias=y - weights.T @ x, r2=r2, rows=rows)


def carry_states(states: SideStates, maps: Mapping[str, Affine]) -> SideStates:
    """Return old states as those of the new upstream; the maps name what is kept."""
    decayed: dict[str, State] = {}
    latest: dict[str, Latest] = {}
    for name, one in maps.items():
        if name in states.latest:
            old = states.latest[name]
            vector = old.vector.astype(np.float64) @ one.matrix.T + one.bias
            latest[name] = Latest(
                keys=old.keys, vector=vector.astype(np.float32), time=old.time, tie=old.tie
            )
            continue
        state = states.decayed[name]
        decayed[name] = State(
            keys=state.keys,
            sum=state.sum @ one.matrix.T + state.weight[:, None] * one.bias,
            weight=state.weight,
            time=state.time,
            events=state.events,
        )
    return SideStates(counts=states.counts, decayed=decayed, latest=latest)
