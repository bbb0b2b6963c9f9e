"""The health of a snapshot of representations: what is in it, what moved, what a probe reads.

Dimension key: N keys or rows, K width of a representation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from lfm4ads.analysis.health import Drift, ProbeSums, Quantiles, coverage, staleness_days
from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.attach import Reps, RepsReader
from lfm4ads.data.batch import Batch
from lfm4ads.data.decay import Float32s, Int64s, read_sums
from lfm4ads.data.manifest import RepSide, RepSpec, available_days
from lfm4ads.data.reader import Reader
from lfm4ads.data.reps import open_snapshot
from lfm4ads.data.side import SideStates
from lfm4ads.data.slots import SIDES
from lfm4ads.data.snapshot import Snapshot
from lfm4ads.metrics.score_histogram import ScoreHistogram
from lfm4ads.train.loop import agreed, progress

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """What is compared and probed."""

    as_of: int = 0
    """Snapshot looked at; 0: the newest."""
    before: int = 0
    """Earlier snapshot of the same upstream it is compared with; 0: the one before it."""
    other_upstream: str = ""
    """Version whose snapshot of the same day it is compared with too; empty: none."""
    probe_days: tuple[int, int] | None = None
    """Day a probe is fitted on and day it is judged on; each row reads a snapshot before its day.
    None: no probes."""
    ridge: float = 1e-3


def check_snapshot(config: HealthConfig, root: Path, *, version: str, ranks: Ranks) -> Json:
    """Return norms, coverage by keys, staleness and drift of a snapshot. Collective."""
    found: list[Snapshot | None] = []
    with ranks.together():
        days = available_days(root, version)
        as_of = config.as_of or max(days, default=0)
        newest = open_snapshot(root, version=version, as_of=as_of)
        earlier = config.before or max((day for day in days if day < as_of), default=0)
        found = [newest, None, None]
        if earlier:
            found[1] = open_snapshot(root, version=version, as_of=earlier)
        if config.other_upstream:
            found[2] = open_snapshot(root, version=config.other_upstream, as_of=as_of)
    snapshot, before, other = found
    assert snapshot is not None
    report: Json = {"upstream": version, "as_of": snapshot.manifest.header.as_of}
    report["before"] = before.manifest.header.as_of if before else None
    report["other_upstream"] = config.other_upstream or None
    sides: list[Json] = []
    for side in SIDES:
        sides += _check_side(snapshot, side, before=before, other=other, ranks=ranks)
    return report | {"representations": sides}


@dataclass
class _Sums:
    spec: RepSpec
    norms: Quantiles
    present: int
    drifts: dict[str, Drift]


def _check_side(
    snapshot: Snapshot,
    side: RepSide,
    *,
    before: Snapshot | None,
    other: Snapshot | None,
    ranks: Ranks,
) -> Iterator[Json]:
    specs = snapshot.manifest.header.specs(side)
    others = {"before": before, "other_upstream": other}
    sums: dict[str, _Sums] = {}
    for spec in specs:
        drifts = {
            words: Drift(spec.dim, dim)
            for words, one in others.items()
            if one is not None and (dim := _dim_of(one, side, spec.name))
        }
        sums[spec.name] = _Sums(spec, Quantiles(), 0, drifts)
    ages, keys = Quantiles(), 0
    end_ms = _end_of(snapshot.manifest.header.as_of)
    with ranks.together():
        for chunk in snapshot.owned(side, rank=ranks.rank, world=ranks.world):
            keys += len(chunk.keys)
            ages.add(staleness_days(chunk.counts.time, as_of_end_ms=end_ms))
            for one in sums.values():
                _add(one, chunk, side, others=others)
    total = int(ranks.sum(np.array([keys]))[0])
    staleness = ages.read(ranks.sum)
    for one in sums.values():
        have = int(ranks.sum(np.array([one.present]))[0])
        yield {
            "side": side,
            "name": one.spec.name,
            "layer": one.spec.layer,
            "dim": one.spec.dim,
            "keys": total,
            "coverage_ratio": have / total if total else None,
            "norm": one.norms.read(ranks.sum),
            "staleness_days": staleness,
            "drift": {words: drift.read(ranks.sum) for words, drift in one.drifts.items()},
        }


def _dim_of(snapshot: Snapshot, side: RepSide, name: str) -> int:
    dims = {spec.name: spec.dim for spec in snapshot.manifest.header.specs(side)}
    return dims.get(name, 0)


def _end_of(day: int) -> int:
    """Return the last millisecond of a UTC day, as a time no event of it comes after."""
    start = datetime.strptime(str(day), "%Y%m%d").replace(tzinfo=UTC)
    return int((start + timedelta(days=1)).timestamp() * 1000)


def _add(
    one: _Sums, chunk: SideStates, side: RepSide, *, others: dict[str, Snapshot | None]
) -> None:
    keys, vectors = _read(chunk, one.spec)
    one.present += len(keys)
    one.norms.add(_lengths(chunk, one.spec))
    for words, drift in one.drifts.items():
        snapshot = others[words]
        assert snapshot is not None
        found = snapshot.subset(side, [one.spec.name], keys).lookup(keys)
        both = found.present[one.spec.name]
        drift.add(vectors[both], found.values[one.spec.name][both])


def _read(chunk: SideStates, spec: RepSpec) -> tuple[Int64s, Float32s]:
    """Return keys (N,) that have a representation, and it (N, K) as models read it."""
    if spec.kind == "latest":
        latest = chunk.latest[spec.name]
        return latest.keys, latest.vector
    state = chunk.decayed[spec.name]
    return state.keys, read_sums(state.sum.astype(np.float32), state.weight, spec.read)


def _lengths(chunk: SideStates, spec: RepSpec) -> Float32s:
    """Return norms (N,) of newest vectors, of decayed sums those of their mean.

    What a model reads of a sum is normalised, and its norm would always be the same.
    """
    if spec.kind == "latest":
        return np.linalg.norm(chunk.latest[spec.name].vector, axis=1)
    state = chunk.decayed[spec.name]
    return np.linalg.norm(read_sums(state.sum, state.weight, "mean"), axis=1)


def probe_reps(
    config: HealthConfig, reader: Reader, reps: Reps, *, task: str, ranks: Ranks
) -> list[Json]:
    """Return how well a linear score of each representation orders a held-out day. Collective."""
    assert config.probe_days is not None
    fit_day, held_day = config.probe_days
    if fit_day >= held_day:
        raise UserError(
            f"health.probe_days is {[fit_day, held_day]}; a probe is judged on a later day",
            everywhere=True,
        )
    attached = RepsReader(reader, reps, ranks=ranks)
    at = list(reader.dataset.schema.tasks).index(task)
    dims: dict[str, int] = {}
    with ranks.together():
        dims |= reps.dims(fit_day)
    sums = {name: ProbeSums(dim) for name, dim in dims.items()}
    for batch in _batches(attached, fit_day, ranks=ranks):
        known = batch.masks[:, at] > 0
        for name, one in sums.items():
            one.add(batch.reps[name][known].numpy(), (batch.labels[known, at] > 0).numpy())
    probes = {name: one.solve(ranks.sum, ridge=config.ridge) for name, one in sums.items()}
    scores = {name: ScoreHistogram() for name in probes}
    present: dict[str, list[np.ndarray[Any, np.dtype[np.bool_]]]] = {name: [] for name in probes}
    for batch in _batches(attached, held_day, ranks=ranks):
        known = batch.masks[:, at] > 0
        labels = (batch.labels[known, at] > 0).numpy()
        for name, probe in probes.items():
            scores[name].update(probe.scores(batch.reps[name][known].numpy()), labels=labels)
            present[name].append((batch.present[name][known] > 0).numpy())
    found: list[Json] = []
    for name, one in scores.items():
        rows, share = coverage(present[name], ranks.sum)
        auc = one.reduce_to_first(ranks).auc()
        found.append({"name": name, "rows": rows, "coverage_ratio": share, "auc": auc})
    return found


def _batches(reader: RepsReader, day: int, *, ranks: Ranks) -> Iterator[Batch]:
    words = f"probe {day}"
    batches = progress(reader.day(day), total=reader.num_steps(day), words=words, ranks=ranks)
    for batch in agreed(batches, ranks=ranks):
        if batch is not None:
            yield batch
