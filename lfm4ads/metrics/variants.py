"""Variants of one training compared seed by seed, by means of the AUCs that their runs report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from lfm4ads.core.errors import UserError
from lfm4ads.metrics.seeds import student_interval

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FigureConfig:
    """One number a run is judged by: a mean of AUCs or GAUCs over days and scenarios.

    AUCs are weighted by their positives; a pooled one would reward knowing which scenario clicks
    more. GAUCs are weighted by their rows, as users are inside each of them.
    """

    task: str
    measure: Literal["auc", "gauc"] = "auc"
    """gauc: AUC within a user, so that telling users apart is worth nothing."""
    split: str = "prequential"
    scenarios: tuple[str, ...] = ()
    """Scenario ids; empty: all."""
    first_day: int = 0
    """Days before it are left out."""


def compare_variants(
    reports: Mapping[tuple[str, int], Json],
    *,
    figures: Mapping[str, FigureConfig],
    baseline: str,
    seeds: Sequence[int],
) -> Json:
    """Return ``figures`` and ``cost`` of the variants, in the order of ``reports``.

    Args:
        reports: what each run reported, by variant and seed.
        figures: name -> what is compared.
        baseline: the variant the others are compared with.
        seeds: those of every variant.
    """
    variants = list(dict.fromkeys(variant for variant, _ in reports))
    rows: list[Json] = []
    for name, figure in figures.items():
        values = {key: figure_value(report, figure) for key, report in reports.items()}
        for variant in variants:
            own = [values[variant, seed] for seed in seeds]
            gains = [values[variant, seed] - values[baseline, seed] for seed in seeds]
            rows.append(
                {
                    "figure": name,
                    "variant": variant,
                    "values": own,
                    "mean": asdict(student_interval(own)),
                    "lift": None if variant == baseline else asdict(student_interval(gains)),
                }
            )
    cost = {
        variant: {
            "num_parameters": reports[variant, seeds[0]]["num_parameters"],
            "seconds": [reports[variant, seed]["seconds"] for seed in seeds],
            "rows_per_second": [reports[variant, seed].get("rows_per_second") for seed in seeds],
        }
        for variant in variants
    }
    return {"figures": rows, "cost": cost}


def figure_value(report: Json, figure: FigureConfig) -> float:
    """Return the figure of one run."""
    weight = "positives" if figure.measure == "auc" else "rows"
    chosen = [
        (row[figure.measure], row[weight])
        for row in report["metrics"]
        if row["task"] == figure.task
        and row["split"] == figure.split
        and row["scenario"] != "all"
        and (not figure.scenarios or row["scenario"] in figure.scenarios)
        and row["day"] >= figure.first_day
        and row[figure.measure] is not None
    ]
    if not chosen:
        raise UserError(
            f"the runs have no {figure.measure.upper()} of task {figure.task}, split"
            f" {figure.split}, scenarios {', '.join(figure.scenarios) or 'all'}; mend figures"
        )
    values, weights = np.array(chosen, dtype=np.float64).T
    return float(np.average(values, weights=weights))
