"""Moves and swaps of single pieces off the slowest rank, after all have been placed.

Dimension key: U units, V single pieces and one empty place a rank, R ranks, M pieces of a rank.
"""

from dataclasses import dataclass, replace

import numpy as np

from lfm4ads.shard.planning.cluster import ClusterConfig
from lfm4ads.shard.planning.described import Doubles, Flags, Ints
from lfm4ads.shard.planning.estimate import sum_by_rank
from lfm4ads.shard.planning.units import Units

_LEAST_GAIN = 1e-6


@dataclass
class _State:
    """Single pieces and one empty place for each rank (V,), and what every rank has (R,)."""

    unit_V: Ints
    table_V: Ints
    rank_V: Ints
    seconds_V: Doubles
    hbm_V: Doubles
    host_V: Doubles
    seconds_R: Doubles
    hbm_R: Doubles
    host_R: Doubles
    most_hbm: float
    """Memory that no rank may pass: no more than the fullest has at first."""


def swap_units(units: Units, *, base_bytes: float, rounds: int, cluster: ClusterConfig) -> Units:
    """Take work off the slowest rank, one move or swap a round, while that makes a step shorter.

    No rank is filled beyond its memory or the fullest; no two parts of a table come to one rank.
    """
    state = _start(units, base_bytes=base_bytes, cluster=cluster)
    for _ in range(rounds):
        if not _swap(state, cluster=cluster):
            break
    start_U = units.start_U.copy()
    single = state.unit_V >= 0
    start_U[state.unit_V[single]] = state.rank_V[single]
    return replace(units, start_U=start_U)


def _start(units: Units, *, base_bytes: float, cluster: ClusterConfig) -> _State:
    rank_S = np.concatenate(
        [np.arange(s, s + n) for s, n in zip(units.start_U, units.span_U, strict=True)]
    )

    def by_rank(values_U: Doubles) -> Doubles:
        values_S = np.repeat(values_U, units.span_U)
        return sum_by_rank(values_S, rank_S=rank_S, ranks=cluster.ranks)

    single = np.flatnonzero(units.span_U == 1)
    none = np.zeros(cluster.ranks)
    hbm_R = by_rank(units.hbm_U) + base_bytes
    return _State(
        unit_V=np.concatenate([single, np.full(cluster.ranks, -1)]),
        table_V=np.concatenate([units.table_U[single], np.full(cluster.ranks, -1)]),
        rank_V=np.concatenate([units.start_U[single], np.arange(cluster.ranks)]),
        seconds_V=np.concatenate([units.seconds_U[single], none]),
        hbm_V=np.concatenate([units.hbm_U[single], none]),
        host_V=np.concatenate([units.host_U[single], none]),
        seconds_R=by_rank(units.seconds_U),
        hbm_R=hbm_R,
        host_R=by_rank(units.host_U),
        most_hbm=min(cluster.hbm_limit_bytes, float(hbm_R.max())),
    )


def _swap(state: _State, *, cluster: ClusterConfig) -> bool:
    """Make the best exchange between the slowest rank and any other; return whether one helps."""
    worst = int(state.seconds_R.argmax())
    mine_M = np.flatnonzero((state.rank_V == worst) & (state.unit_V >= 0))
    if not mine_M.size:
        return False
    give_M1 = state.seconds_V[mine_M][:, None]
    after_MV = np.maximum(
        state.seconds_R[worst] - give_M1 + state.seconds_V,
        state.seconds_R[state.rank_V] + give_M1 - state.seconds_V,
    )
    after_MV[~_roomy(state, mine_M, worst=worst, cluster=cluster)] = np.inf
    while True:
        flat = int(after_MV.argmin())
        mine, other = int(mine_M[flat // after_MV.shape[1]]), flat % after_MV.shape[1]
        if after_MV.reshape(-1)[flat] >= state.seconds_R[worst] * (1 - _LEAST_GAIN):
            return False
        if not _meets_itself(state, mine=mine, other=other):
            _exchange(state, mine=mine, other=other)
            return True
        after_MV.reshape(-1)[flat] = np.inf


def _roomy(state: _State, mine_M: Ints, *, worst: int, cluster: ClusterConfig) -> Flags:
    """Return which exchanges (M, V) leave both ranks and both nodes with room."""
    hbm_MV = state.hbm_V[mine_M][:, None] - state.hbm_V
    host_MV = state.host_V[mine_M][:, None] - state.host_V
    node_R = state.host_R.reshape(cluster.nodes, -1).sum(axis=1)
    node_R = np.repeat(node_R, cluster.gpus_per_node)
    most = cluster.host_limit_bytes * cluster.gpus_per_node
    return (
        (state.rank_V != worst)
        & (state.hbm_R[state.rank_V] + hbm_MV <= state.most_hbm)
        & (state.hbm_R[worst] - hbm_MV <= state.most_hbm)
        & ((node_R[state.rank_V] + host_MV <= most) | (host_MV <= 0))
        & ((node_R[worst] - host_MV <= most) | (host_MV >= 0))
    )


def _meets_itself(state: _State, *, mine: int, other: int) -> bool:
    """Whether an exchange would bring two parts of one table together."""

    def is_on(piece: int, rank: int) -> bool:
        table = state.table_V[piece]
        return table >= 0 and bool(((state.table_V == table) & (state.rank_V == rank)).any())

    return is_on(mine, state.rank_V[other]) or is_on(other, state.rank_V[mine])


def _exchange(state: _State, *, mine: int, other: int) -> None:
    here, there = state.rank_V[mine], state.rank_V[other]
    for values_R, values_V in (
        (state.seconds_R, state.seconds_V),
        (state.hbm_R, state.hbm_V),
        (state.host_R, state.host_V),
    ):
        change = values_V[mine] - values_V[other]
        values_R[here] -= change
        values_R[there] += change
    state.rank_V[mine] = there
    if state.unit_V[other] >= 0:  # an empty place stays with its rank
        state.rank_V[other] = here
