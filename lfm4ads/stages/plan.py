"""Places described tables on a described cluster: memory, step time, and what to change.

make plan CONFIG=configs/plan/cluster_5b.yaml

Nothing is trained and no weight is allocated, so it runs on a laptop.
"""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lfm4ads.analysis.plan_page import render_plan
from lfm4ads.analysis.ranks import draw_ranks
from lfm4ads.core.config import config_yaml, load_config
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import prepare_output, whole_file, write_json, write_text
from lfm4ads.core.version import git_commit
from lfm4ads.data.schema import Schema
from lfm4ads.shard.planning.advice import advise, find_changes
from lfm4ads.shard.planning.cluster import GIB, ClusterConfig, WorkloadConfig, bytes_of
from lfm4ads.shard.planning.described import (
    RuleConfig,
    TableGroup,
    Tables,
    apply_rules,
    describe_groups,
    describe_schema,
)
from lfm4ads.shard.planning.placed import placement_of, plan_figures
from lfm4ads.shard.planning.planner import Plan, SearchConfig, plan_cluster

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Config:
    """One plan. Tables come from ``groups`` or from ``schema``."""

    output: Path
    overwrite: bool = False
    cluster: ClusterConfig
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    groups: dict[str, TableGroup] = field(default_factory=dict[str, TableGroup])
    """Name -> like tables; a group of several is ``<name>_0``, ``<name>_1`` and so on."""
    schema: Path | None = None
    """A dataset, or its ``schema.yaml``."""
    list_pooling: float = 20.0
    """Ids of a list feature of the schema that has no max_length."""
    rules: dict[str, RuleConfig] = field(default_factory=dict[str, RuleConfig])
    """Pattern of table names (``*``, ``?``) -> what they may be; the last that matches counts."""
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        if self.groups and self.schema is not None:
            raise ValueError("give groups or schema, not both")
        if self.list_pooling <= 0:
            raise ValueError(f"list_pooling must be positive, got {self.list_pooling}")


def run(config: Config) -> str:
    """Write the report, pictures, page and ``placement.json``; return what to print."""
    tables = _describe(config)
    _refuse_hopeless(config, tables)
    prepare_output(config.output, overwrite=config.overwrite)
    started = time.perf_counter()
    plan = plan_cluster(
        tables, workload=config.workload, cluster=config.cluster, search=config.search
    )
    seconds = time.perf_counter() - started
    report = {"schema_version": 1, "stage": "plan", "commit": git_commit()}
    report |= {"planning_seconds": seconds, "tables": len(tables)}
    report |= {
        "rows": int(tables.rows_T.sum()),
        "parameters": int((tables.rows_T * tables.dim_T).sum()),
    }
    report |= plan_figures(plan, cluster=config.cluster)
    report |= _advice(config, tables, plan)
    _write(config, tables, plan=plan, report=report)
    return _summary(config, report)


def _describe(config: Config) -> Tables:
    if config.schema is None:
        tables = describe_groups(config.groups)
    else:
        path = config.schema / "schema.yaml" if config.schema.is_dir() else config.schema
        tables = describe_schema(load_config(Schema, [str(path)]), list_pooling=config.list_pooling)
    return apply_rules(tables, rules=config.rules)


def _refuse_hopeless(config: Config, tables: Tables) -> None:
    """Stop at a table that no placement could hold: nothing but its size can be wrong."""
    cluster = config.cluster
    weights_T = (
        tables.rows_T.astype(np.float64) * tables.dim_T * bytes_of(config.workload.table_precision)
    )
    room_T = cluster.ranks * (
        cluster.hbm_limit_bytes * tables.in_hbm_T + cluster.host_limit_bytes * tables.on_host_T
    )
    at = int((weights_T / np.maximum(room_T, 1)).argmax())
    if weights_T[at] > room_T[at]:
        nodes = int(np.ceil(weights_T[at] / room_T[at] * cluster.nodes)) if room_T[at] else 0
        more = f"plan for at least cluster.nodes={nodes}" if nodes else "give cluster.host_gib"
        raise UserError(
            f"table {tables.names[at]} ({tables.rows_T[at]} rows x {tables.dim_T[at]}) needs"
            f" {weights_T[at] / GIB:,.0f} GiB and the whole cluster has {room_T[at] / GIB:,.0f}"
            f" for it; {more}, or describe fewer rows"
        )


def _advice(config: Config, tables: Tables, plan: Plan) -> Json:
    if plan.fits:
        return {"advice": "", "changes": []}
    changes = find_changes(
        tables, workload=config.workload, cluster=config.cluster, search=config.search
    )
    return {
        "advice": advise(plan, cluster=config.cluster, changes=changes),
        "changes": [asdict(change) for change in changes],
    }


def _write(config: Config, tables: Tables, *, plan: Plan, report: Json) -> None:
    """Write the files; ``report.json`` comes last: it says the folder is whole."""
    cost, cluster = plan.estimate, config.cluster
    memory, memory_png = draw_ranks(
        {name: each / GIB for name, each in cost.memory.items()},
        name="ranks_memory",
        title="Memory of each rank",
        unit="GiB of HBM",
        limit=cluster.hbm_limit_bytes / GIB,
    )
    seconds, seconds_png = draw_ranks(
        {name: each * 1e3 for name, each in cost.seconds.items()},
        name="ranks_seconds",
        title="A step on each rank",
        unit="ms",
    )
    for picture, png in ((memory, memory_png), (seconds, seconds_png)):
        write_text(config.output / "figures" / f"{picture.name}.svg", picture.svg)
        with whole_file(config.output / "figures" / f"{picture.name}.png") as temporary:
            temporary.write_bytes(png)
    text = config_yaml(config)
    write_text(config.output / "config.yaml", text)
    placement = placement_of(tables, plan)
    write_json(config.output / "placement.json", placement)
    page = render_plan(report, pictures=(memory, seconds), tables=placement["tables"], config=text)
    write_text(config.output / "report.html", page)
    write_json(config.output / "report.json", report)


def _summary(config: Config, report: Json) -> str:
    count, fullest, step = report["tables"], report["max_rank_bytes"], report["bottleneck"]
    fits = "fits" if report["fits"] else "DOES NOT FIT"
    lines = [f"{count} tables, {report['rows']:,} rows on {report['ranks']} ranks: {fits}"]
    lines.append(
        f"fullest rank {fullest / GIB:.1f} of {report['limit_rank_bytes'] / GIB:.1f} GiB, load"
        f" spread {report['load_spread_ratio']:.3f}, planned in {report['planning_seconds']:.2f} s"
    )
    lines.append(
        f"step {report['predicted_step_seconds'] * 1e3:.1f} ms, of it"
        f" {step['phase']} {step['seconds'] * 1e3:.1f} ms on rank {step['rank']}"
    )
    if report["advice"]:
        lines.append(report["advice"])
    return "\n".join([*lines, str(config.output / "report.html")])
