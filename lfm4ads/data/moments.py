"""Mean and spread of a representation over the keys of a snapshot.

An upstream model that goes on training drifts: the same taste has another vector a week later. A
downstream model cannot follow, but it can be handed every day's vectors on the scale of one day.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lfm4ads.data.decay import Float32s, Float64s, read_sums
from lfm4ads.data.manifest import RepSpec
from lfm4ads.data.side import SideStates


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Per dimension (D,), of the vectors as they are read."""

    mean: Float64s
    std: Float64s
    """1 where all keys agree."""


def empty_sums(specs: Iterable[RepSpec]) -> dict[str, list[list[float]]]:
    """Return the sums of no key: per representation [counts], [sums], [sums of squares]."""
    return {spec.name: np.zeros((3, spec.dim)).tolist() for spec in specs}


def add_states(
    sums: dict[str, list[list[float]]], states: SideStates, specs: Iterable[RepSpec]
) -> None:
    """Add the keys of ``states`` to ``sums`` in place."""
    for spec in specs:
        vectors = _read(states, spec).astype(np.float64)
        count = np.full(spec.dim, float(len(vectors)))
        added = np.stack([count, vectors.sum(0), np.square(vectors).sum(0)])
        sums[spec.name] = (np.array(sums[spec.name]) + added).tolist()


def to_moments(parts: Iterable[list[list[float]]]) -> Moments:
    """Return the moments of the keys of all parts together."""
    count, first, second = np.sum([np.array(part) for part in parts], axis=0)
    mean = first / np.maximum(count, 1)
    variance = np.maximum(second / np.maximum(count, 1) - mean**2, 0)
    std = np.sqrt(variance)
    return Moments(mean=mean, std=np.where(std > 1e-6, std, 1.0))


def _read(states: SideStates, spec: RepSpec) -> Float32s:
    if spec.kind == "latest":
        return states.latest[spec.name].vector
    state = states.decayed[spec.name]
    return read_sums(state.sum, state.weight, spec.read)
