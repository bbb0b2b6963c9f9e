"""Arms on the same rows, as rows of ``report.json``: figures, means, lifts, gap closed.

Dimension key: S seeds, N rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lfm4ads.core.ranks import Ranks
from lfm4ads.data.runs import ORACLE
from lfm4ads.data.scored import Array, Scored
from lfm4ads.metrics.binary import BinaryMetrics, figures_json
from lfm4ads.metrics.paired import GapScores, PairedScores, mean_lift, mean_share_of_gap

Json = dict[str, Any]

_EXACT_SCORES = 2**22
"""Distinct scores up to which an AUC is exact; a report can afford more than a training run."""


def scenarios_of_mean(rows: Scored, *, task: str, min_positives: int) -> dict[str, Array]:
    """Return the rows (M,) of each scenario that has enough positives, and two negatives."""
    found: dict[str, Array] = {}
    for name, cell in rows.cells(task).items():
        positives = int(rows.label_N[task][cell].sum())
        if name != "all" and positives >= min_positives and len(cell) - positives >= 2:
            found[name] = cell
    return found


def arm_figures(rows: Scored, *, alone: Ranks) -> list[Json]:
    """Return the figures of every arm, seed, task and scenario of one split.

    ``alone`` is a job of one rank, whatever the job this runs in.
    """
    found: list[Json] = []
    for task in rows.tasks:
        cells = rows.cells(task)
        for (arm, seed), logits in rows.logit_N.items():
            for scenario, cell in cells.items() if task in logits else ():
                metrics = BinaryMetrics(capacity=_EXACT_SCORES)
                metrics.update(
                    logits[task][cell], labels=rows.label_N[task][cell], users=rows.user_N[cell]
                )
                place = {
                    "arm": arm,
                    "seed": seed,
                    "task": task,
                    "scenario": scenario,
                    "split": rows.split,
                }
                found.append(place | figures_json(metrics.reduce(alone)))
    return found


def mean_figures(
    arms: Sequence[Json], *, entering: Mapping[tuple[str, str], Sequence[str]]
) -> list[Json]:
    """Average every figure over seeds, and the AUC also over the scenarios that enter the mean.

    A figure is undefined in the mean if it is in any seed. An interval's ends are averaged too:
    that is the interval of a typical seed, which does not cover the choice of seeds.

    Args:
        arms: rows of ``arm_figures``, of any splits.
        entering: scenarios that enter the mean, by (split, task).
    """
    cells: dict[tuple[str, str, str], dict[str, list[Json]]] = {}
    for row in arms:
        key = (row["arm"], row["task"], row["split"])
        cells.setdefault(key, {}).setdefault(row["scenario"], []).append(row)
    found: list[Json] = []
    for (arm, task, split), scenarios in cells.items():
        place: Json = {"arm": arm, "task": task, "split": split}
        over_seeds = {name: place | _mean_of(seeds) for name, seeds in scenarios.items()}
        chosen = [over_seeds[name] for name in entering[split, task]]
        over_scenarios = place | {
            **dict.fromkeys(over_seeds["all"]),
            **place,
            "scenario": "mean",
            "scenarios": list(entering[split, task]),
            "num_seeds": over_seeds["all"]["num_seeds"],
            "auc": float(np.mean([row["auc"] for row in chosen])) if chosen else None,
            "rows": sum(row["rows"] for row in chosen),
            "positives": sum(row["positives"] for row in chosen),
        }
        found += [over_scenarios, *over_seeds.values()]
    return found


def _mean_of(seeds: Sequence[Json]) -> Json:
    first = seeds[0]
    same = {"scenario": first["scenario"], "num_seeds": len(seeds)}
    counts = {name: first[name] for name in ("rows", "positives")}
    figures = [
        name for name in first if name not in ("arm", "seed", "task", "scenario", "split", *counts)
    ]
    averages = {
        name: None
        if any(row[name] is None for row in seeds)
        else float(np.mean([row[name] for row in seeds]))
        for name in figures
    }
    return same | averages | counts


@dataclass(frozen=True, kw_only=True)
class _Scope:
    """Test rows that one lift is about: one or more cells, averaged over."""

    place: Json
    """Task, scenario and what the rows count."""
    cells: list[Array]


def _scopes(rows: Scored, *, task: str, min_positives: int) -> list[_Scope]:
    cells = rows.cells(task)
    entering = scenarios_of_mean(rows, task=task, min_positives=min_positives)
    chosen = {"mean": list(entering.values())} | {name: [cell] for name, cell in cells.items()}
    return [
        _Scope(
            place={
                "task": task,
                "scenario": name,
                **({"scenarios": list(entering)} if name == "mean" else {}),
                "rows": sum(len(cell) for cell in parts),
                "positives": sum(int(rows.label_N[task][cell].sum()) for cell in parts),
            },
            cells=parts,
        )
        for name, parts in chosen.items()
    ]


def lifts(rows: Scored, *, baseline: str, min_positives: int) -> list[Json]:
    """Return AUC lifts over the baseline, paired by row and seed; None where AUC is undefined."""
    found: list[Json] = []
    for arm, task in _compared(rows, baseline=baseline):
        seeds = rows.seeds(baseline if arm == ORACLE else arm)
        arm_SN, base_SN = (
            _scores(rows, arm=name, task=task, seeds=seeds) for name in (arm, baseline)
        )
        for scope in _scopes(rows, task=task, min_positives=min_positives):
            lift = mean_lift(
                [
                    PairedScores(
                        scores_a=arm_SN[:, cell],
                        scores_b=base_SN[:, cell],
                        labels=rows.label_N[task][cell],
                    )
                    for cell in scope.cells
                ]
            )
            figures = {
                "delta_auc": lift.delta_auc if lift else None,
                "low": lift.low if lift else None,
                "high": lift.high if lift else None,
                "num_seeds": len(seeds),
            }
            found.append({"arm": arm, "baseline": baseline, **scope.place, **figures})
    return found


def gaps_closed(rows: Scored, *, baseline: str, min_positives: int) -> list[Json]:
    """Return how much of the gap from baseline to oracle each arm closes; empty without oracle."""
    found: list[Json] = []
    truth = rows.logit_N.get((ORACLE, 0), {})
    for arm, task in _compared(rows, baseline=baseline):
        if arm == ORACLE or task not in truth:
            continue
        seeds = rows.seeds(arm)
        arm_SN, base_SN = (
            _scores(rows, arm=name, task=task, seeds=seeds) for name in (arm, baseline)
        )
        for scope in _scopes(rows, task=task, min_positives=min_positives):
            share = mean_share_of_gap(
                [
                    GapScores(
                        scores_arm=arm_SN[:, cell],
                        scores_base=base_SN[:, cell],
                        scores_oracle=truth[task][cell],
                        labels=rows.label_N[task][cell],
                    )
                    for cell in scope.cells
                ]
            )
            figures = {
                "share": share.share if share else None,
                "low": share.low if share else None,
                "high": share.high if share else None,
                "num_seeds": len(seeds),
            }
            found.append({"arm": arm, "baseline": baseline, **scope.place, **figures})
    return found


def _compared(rows: Scored, *, baseline: str) -> list[tuple[str, str]]:
    """Return every (arm, task) besides the baseline's, in the order the runs were loaded."""
    pairs = [
        (arm, task)
        for (arm, _), logits in rows.logit_N.items()
        for task in logits
        if arm != baseline
    ]
    return list(dict.fromkeys(pairs))


def _scores(rows: Scored, *, arm: str, task: str, seeds: Sequence[int]) -> Array:
    """Return logits (S, N); the oracle has no seed, so it stands beside every one."""
    return np.stack([rows.logit_N[arm, 0 if arm == ORACLE else seed][task] for seed in seeds])
