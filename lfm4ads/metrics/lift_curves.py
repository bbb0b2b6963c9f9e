"""Lifts of arms that read one layer each, in the order of the layers."""

from collections.abc import Mapping, Sequence
from typing import Any

from lfm4ads.core.errors import UserError

Json = dict[str, Any]


def lift_curves(
    lifts: Sequence[Json], *, curves: Mapping[str, Sequence[str]], baseline: str
) -> list[Json]:
    """Return a row for each curve, task and scenario, with a point an arm.

    Args:
        lifts: rows of ``comparison.lifts``.
        curves: name -> arms in order; the baseline may be one, whose lift is 0.
        baseline: the arm the lifts are over.
    """
    found = {(row["arm"], row["task"], row["scenario"]): row for row in lifts}
    arms = dict.fromkeys([baseline, *(arm for arm, _, _ in found)])
    for name, own in curves.items():
        if not own:
            raise UserError(f"curve {name} names no arm; name some or leave it out")
        for arm in own:
            if arm not in arms:
                raise UserError(
                    f"curve {name} names {arm}, which is no arm of the runs"
                    f" ({', '.join(arms)}); correct curves"
                )
    return [
        {
            "curve": name,
            "task": task,
            "scenario": scenario,
            "points": [
                _point(found.get((arm, task, scenario)), arm=arm, label=label)
                for arm, label in zip(own, differing_parts(own), strict=True)
            ],
        }
        for task, scenario in dict.fromkeys((task, scenario) for _, task, scenario in found)
        for name, own in curves.items()
    ]


def best_points(means: Sequence[Json], *, curves: Mapping[str, Sequence[str]]) -> list[Json]:
    """Return for each curve and task the arm that the validation days choose.

    Args:
        means: rows of ``comparison.mean_figures`` of both splits; the mean over scenarios decides.
        curves: name -> arms in order.
    """
    aucs = {
        (row["arm"], row["task"], row["split"]): row["auc"]
        for row in means
        if row["scenario"] == "mean"
    }
    found: list[Json] = []
    for task in dict.fromkeys(task for _, task, _ in aucs):
        for name, arms in curves.items():
            valid = {arm: aucs.get((arm, task, "valid")) for arm in arms}
            known = {arm: auc for arm, auc in valid.items() if auc is not None}
            if not known:
                continue
            arm = max(known, key=lambda arm: known[arm])
            label = differing_parts(arms)[list(arms).index(arm)]
            test = aucs.get((arm, task, "test"))
            place = {"curve": name, "task": task, "arm": arm, "label": label}
            found.append(place | {"valid_auc": known[arm], "test_auc": test})
    return found


def _point(lift: Json | None, *, arm: str, label: str) -> Json:
    """Return a point; without a lift it is the baseline's, over which it has none."""
    known = lift or {"delta_auc": 0.0, "low": None, "high": None}
    return {"arm": arm, "label": label} | {
        name: known[name] for name in ("delta_auc", "low", "high")
    }


def differing_parts(names: Sequence[str]) -> list[str]:
    """Return names without the words that all begin with, or else end with; none becomes empty.

    Not both: curves of the same layers get the same labels even where one has fewer of them.
    """
    parts = [name.split("_") for name in names]
    spare = min(map(len, parts)) - 1 if len(set(names)) > 1 else 0
    head = 0
    while head < spare and len({words[head] for words in parts}) == 1:
        head += 1
    tail = 0
    while not head and tail < spare and len({words[-tail - 1] for words in parts}) == 1:
        tail += 1
    return [" ".join(words[head : len(words) - tail]) for words in parts]
