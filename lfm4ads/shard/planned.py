"""A placement that the plan stage wrote, as the places of a model's tables."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json
from lfm4ads.core.ranks import Ranks
from lfm4ads.shard.choose import Chosen
from lfm4ads.shard.kernel import KernelConfig
from lfm4ads.shard.layout import COLUMN_STEP, Kind
from lfm4ads.shard.place import PlaceConfig

Json = dict[str, Any]


@dataclass(frozen=True)
class Planned:
    """A config of placement with what a plan says of tables that the config does not name."""

    config: PlaceConfig
    chosen: dict[str, Chosen]
    """Who holds the tables of the plan."""


def open_plan(
    config: PlaceConfig, *, shapes: Mapping[str, tuple[int, int]], ranks: Ranks
) -> Planned:
    """Return ``config`` with its plan filled in; without a plan it is as it was. Collective.

    Args:
        config: What it says of a table goes before what the plan says.
        shapes: (rows, dim) of the model's tables. ``<set>/<table>`` that the plan does not have
            goes where its ``<table>`` does: plans of a schema know no sets.
        ranks: The job, which must have as many ranks as the plan.

    Raises:
        UserError: The file is no placement, or one of other tables or another number of ranks.
    """
    if config.plan is None:
        return Planned(config, {})
    chosen: dict[str, Chosen] = {}
    kernels: dict[str, KernelConfig] = {}
    with ranks.together():
        rows = _read(config.plan, ranks=ranks)
        for name in sorted(shapes.keys() - config.tables.keys()):
            row = rows.get(name) or rows.get(name.rpartition("/")[2])
            if row is None:
                raise UserError(
                    f"{config.plan} has no table {name}; plan it, or place it in place.tables"
                )
            chosen[name] = _place_of(row, name, shape=shapes[name], path=config.plan, ranks=ranks)
            if row["kernel"] != "fused":
                kernels[name] = KernelConfig(kind=row["kernel"], cache_ratio=row["cache_ratio"])
    kinds = {name: one.kind for name, one in chosen.items()}
    filled = replace(config, tables={**kinds, **config.tables}, kernels=kernels | config.kernels)
    return Planned(filled, chosen)


def _read(path: Path, *, ranks: Ranks) -> dict[str, Json]:
    placement: Any = read_json(path)
    if not isinstance(placement, dict) or not {"ranks", "tables"} <= placement.keys():
        raise UserError(f"{path} is no placement; name the placement.json of a plan")
    if placement["ranks"] != ranks.world:
        raise UserError(
            f"{path} places tables on {placement['ranks']} ranks and this job has {ranks.world};"
            " plan for as many, or start as many"
        )
    return {row["name"]: row for row in placement["tables"]}


def _place_of(row: Json, name: str, *, shape: tuple[int, int], path: Path, ranks: Ranks) -> Chosen:
    """Return who holds a table, checked against what it is here."""
    kind, parts = row["kind"], row["column_parts"]
    if (row["rows"], row["dim"]) != shape:
        raise UserError(
            f"{path} has table {name} with {row['rows']} rows of {row['dim']}, the model has"
            f" {shape[0]} of {shape[1]}; plan again"
        )
    held = row["ranks"] or ([] if kind == "data_parallel" else list(range(ranks.world)))
    fits = (
        kind in get_args(Kind) and len(held) % parts == 0 and shape[1] % (COLUMN_STEP * parts) == 0
    )
    if not fits or not set(held) <= set(range(ranks.world)):
        raise UserError(f"{path} places table {name} as no plan does; plan again")
    size = max(len(held) // parts, 1)
    return Chosen(kind, [held[at : at + size] for at in range(0, len(held), size)])
