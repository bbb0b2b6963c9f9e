"""What ``analyse`` sees in trained models: collapse of wide tables, entanglement of shared ones.

    python -m benchmarks.inside collapse --world adsworld --data <folder> --output <folder> --json
    python -m benchmarks.inside entanglement --world kuairand --data <folder> --output <folder>

``collapse`` trains one table set of 8, one of 32, and four sets of 8 columns, which hold as many
numbers as the one of 32; towers are the identity and an expert a set crosses its fields by DCNv2
(arXiv 2310.04400). It compares information abundance: of the four sets side by side with that of
the wide set, and of a set with that of the wide set, each over its width, because four sets that
had all collapsed to one direction would side by side still have four. A ratio is a geometric mean
over tables of at least 64 rows, and its interval Student's over seeds, of logarithms.

``entanglement`` trains two tasks in one table set, and in one set a task and a shared one whose
losses do not enter the other's (STEM, arXiv 2308.13537); reference distances come from models of
one task alone, of the same seed. The floor of such a score is that of models which cannot be
entangled, single-task ones of the next seed, held against the same references.

``collapse`` on ``adsworld`` reads a world of its own for every seed, ``<data>-<seed>``; the others
train every seed on one dataset.
With ``--contrary`` the second task of adsworld is the click turned around where an item's category
is odd, so that half of the pairs of content mean the opposite; ads have the click alone.
Runs found in the output are kept, so a stopped benchmark goes on.
"""

import argparse
import json
import math
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage] - documented, absent from __all__

from lfm4ads.core.config import load_config
from lfm4ads.core.files import read_json
from lfm4ads.core.ranks import Ranks, connect
from lfm4ads.metrics.seeds import student_interval
from lfm4ads.stages import analyse, pretrain

Json = dict[str, Any]
CONFIGS = Path(__file__).parents[1] / "configs" / "pretrain"
LEAST_ROWS = 64
"""Smaller tables fall short of a width of 32 whatever they learn."""
COLLAPSE_WORDS = (
    "model.tower={rep_dim: 0}",
    "model.fields={number: {dim: 8}, vector: {dim: 8}}",
)
COLLAPSE_MODELS = {
    "single_1x": ("model.sets={a: {dim: 8}}", "model.mix.experts={a: {tables: a}}"),
    "single_4x": ("model.sets={a: {dim: 32}}", "model.mix.experts={a: {tables: a}}"),
    "multi_4x": (
        "model.sets={a: {dim: 8}, b: {dim: 8}, c: {dim: 8}, d: {dim: 8}}",
        "model.mix.experts={a: {tables: a}, b: {tables: b}, c: {tables: c}, d: {tables: d}}",
    ),
}


@dataclass(frozen=True, kw_only=True)
class World:
    """A dataset, the days of it that are trained on, and two tasks."""

    name: str
    config: str
    first: int
    last: int
    user: str
    item: str
    tasks: tuple[str, str]
    others: tuple[str, ...]
    """Tasks that nobody trains in ``entanglement``."""
    by_seed: bool
    """Whether every seed of ``collapse`` has a world of its own."""


WORLDS = {
    "adsworld": World(
        name="adsworld",
        config="plain_adsworld.yaml",
        first=20260101,
        last=20260103,
        user="user_id",
        item="item_id",
        tasks=("click", "long_view"),
        others=("conversion",),
        by_seed=True,
    ),
    "kuairand": World(
        name="kuairand",
        config="plain_kuairand.yaml",
        first=20220408,
        last=20220409,
        user="user_id",
        item="video_id",
        tasks=("long_view", "like"),
        others=("click", "profile_enter"),
        by_seed=False,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """Where a part runs."""

    world: World
    data: Path
    output: Path
    ranks: Ranks

    by_seed: bool

    def data_of(self, seed: int) -> Path:
        """Return the dataset of a seed."""
        return Path(f"{self.data}-{seed}") if self.by_seed else self.data

    def train(self, name: str, words: Sequence[str], *, seed: int) -> Path:
        """Train a model unless it is there; return its run folder."""
        output = self.output / f"{name}-{seed}"
        if not (output / "report.json").exists():
            days = f"days={{first: {self.world.first}, base_last: {self.world.last},"
            told = [
                str(CONFIGS / self.world.config),
                f"data={self.data_of(seed)}",
                f"output={output}",
                f"seed={seed}",
                f"{days} last: {self.world.last}}}",
                "overwrite=true",
                *words,
            ]
            pretrain.run(load_config(pretrain.Config, told), self.ranks)
        return output

    def look(self, name: str, words: Sequence[str], *, run: Path, seed: int) -> Json:
        """Analyse a run; return its report."""
        output = self.output / f"look-{name}-{seed}"
        if not (output / "report.json").exists():
            told = [
                str(CONFIGS.parent / "analyse" / "adsworld.yaml"),
                f"data={self.data_of(seed)}",
                f"pretrain={run}",
                f"output={output}",
                "reps=null",
                "history=null",
                "health={}",
                f"task={self.world.tasks[0]}",
                f"first_day={self.world.last}",
                f"last_day={self.world.last}",
                "overwrite=true",
                *words,
            ]
            analyse.run(load_config(analyse.Config, told), self.ranks)
        return read_json(output / "report.json")


def collapse(study: Study, *, seeds: Sequence[int]) -> Json:
    """Return abundance by model, seed and way of weighting, and the ratios."""
    found: dict[tuple[str, int], Json] = {}
    for seed in seeds:
        for name, words in COLLAPSE_MODELS.items():
            run = study.train(name, [*COLLAPSE_WORDS, *words], seed=seed)
            found[name, seed] = study.look(name, (), run=run, seed=seed)["collapse"]
    ratios: list[Json] = []
    for kind in ("raw", "normalised", "by traffic"):
        each = [_ratios(found, seed=seed, kind=kind) for seed in seeds]
        for words in each[0]:
            estimate = student_interval([math.log(one[words]) for one in each])
            ratios.append(
                {
                    "kind": kind,
                    "ratio": words,
                    "mean": math.exp(estimate.mean),
                    "low": None if estimate.low is None else math.exp(estimate.low),
                    "high": None if estimate.high is None else math.exp(estimate.high),
                    "seeds": [one[words] for one in each],
                }
            )
    return {"ratios": ratios, "tables": _table_rows(found, seeds=seeds)}


def _abundances(report: Json, *, table_set: str, kind: str) -> dict[str, float]:
    """Return information abundance by table of one set; by traffic: the mean over features."""
    found: dict[str, float] = {}
    for row in report["tables"]:
        if row["set"] != table_set or row["rows"] < LEAST_ROWS:
            continue
        names = [one for one in row if one.startswith("by ")] if kind == "by traffic" else [kind]
        values = [row[one]["abundance"] for one in names]
        if values and None not in values:
            found[row["table"]] = float(np.mean(values))
    return found


def _ratios(found: Mapping[tuple[str, int], Json], *, seed: int, kind: str) -> dict[str, float]:
    wide = _abundances(found["single_4x", seed], table_set="a", kind=kind)
    narrow = _abundances(found["single_1x", seed], table_set="a", kind=kind)
    multi = found["multi_4x", seed]
    beside = _abundances(multi, table_set="all sets", kind=kind)
    sets = [_abundances(multi, table_set=one, kind=kind) for one in "abcd"]
    own = {table: float(np.mean([one[table] for one in sets])) for table in sets[0]}
    return {
        "four sets side by side / one wide set": _mean_ratio(beside, wide),
        "a set over 8 / one wide set over 32": 4 * _mean_ratio(own, wide),
        "one narrow set over 8 / one wide set over 32": 4 * _mean_ratio(narrow, wide),
    }


def _mean_ratio(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    tables = sorted(set(one) & set(other))
    return float(np.exp(np.mean([np.log(one[table] / other[table]) for table in tables])))


def _table_rows(found: Mapping[tuple[str, int], Json], *, seeds: Sequence[int]) -> list[Json]:
    rows: list[Json] = []
    for (name, table_set), kind in [
        (model, kind)
        for model in (("single_1x", "a"), ("single_4x", "a"), ("multi_4x", "all sets"))
        for kind in ("raw", "by traffic")
    ]:
        each = [_abundances(found[name, seed], table_set=table_set, kind=kind) for seed in seeds]
        rows += [
            {
                "model": name,
                "kind": kind,
                "table": table,
                "abundance": float(np.mean([one[table] for one in each])),
            }
            for table in each[0]
        ]
    return rows


def entanglement(study: Study, *, seeds: Sequence[int]) -> Json:
    """Return scores of shared tables, of a set a task, and of single-task models of another seed.

    Reference models of every seed are also the ones without entanglement of the seed before.
    """
    first, second = study.world.tasks
    runs: dict[tuple[str, int], Path] = {}
    for seed in seeds:
        for name, words in _entanglement_models(study.world).items():
            runs[name, seed] = study.train(name, words, seed=seed)
    scores: list[Json] = []
    for place, seed in enumerate(seeds):
        singles = {task: runs[f"only_{task}", seed] for task in (first, second)}
        words = [
            f"singles={{{first}: {singles[first]}, {second}: {singles[second]}}}",
            f"pairs={{user: {study.world.user}, item: {study.world.item}}}",
        ]
        found = {
            name: study.look(name, words, run=runs[name, seed], seed=seed)["entanglement"]
            for name in ("shared", "stem")
        }
        row: Json = {"seed": seed, "conflict_pairs": found["stem"]["conflict_pairs"]}
        row["pairs"] = found["stem"]["pairs"]
        row["shared table"] = found["shared"]["scores"]["main"]
        row["a table a task"] = found["stem"]["scores"]["own tables"]
        row["mixtures of a task"] = found["stem"]["scores"]["own mixtures"]
        row["the shared set of STEM"] = found["stem"]["scores"]["shared"]
        if len(seeds) > 1:
            other = seeds[(place + 1) % len(seeds)]
            again = {task: runs[f"only_{task}", other] for task in (first, second)}
            row["single-task models of another seed"] = _floor(study, words, again, seed=seed)
        scores.append(row)
    names = [name for name in scores[0] if name not in ("seed", "conflict_pairs", "pairs")]
    means = {name: asdict(student_interval([row[name] for row in scores])) for name in names}
    gains = [row["shared table"] - row["a table a task"] for row in scores]
    means["shared table - a table a task"] = asdict(student_interval(gains))
    return {"tasks": [first, second], "scores": scores, "means": means}


def _entanglement_models(world: World) -> dict[str, list[str]]:
    first, second = world.tasks
    silent = dict.fromkeys(world.others, 0)
    dims = "number: {dim: 16}, vector: {dim: 16}"
    words = ["model.tower={rep_dim: 0}", f"model.fields={{{dims}}}"]
    experts = ", ".join(f"{one}: {{tables: {one}}}" for one in (first, second, "shared"))
    sets = ", ".join(f"{one}: {{dim: 16}}" for one in (first, second, "shared"))
    trains = {task: [task, "shared"] for task in (first, second)}
    trains |= {task: ["shared"] for task in world.others}
    both = f"loss.task_weights={json.dumps(silent)}"
    return {
        f"only_{first}": [*words, f"loss.task_weights={json.dumps({**silent, second: 0})}"],
        f"only_{second}": [*words, f"loss.task_weights={json.dumps({**silent, first: 0})}"],
        "shared": [*words, both],
        "stem": [
            *words,
            both,
            f"model.sets={{{sets}}}",
            f"model.mix.experts={{{experts}}}",
            "model.mix.merge={kind: gate, per_task: true}",
            f"model.trains={json.dumps(trains)}",
        ],
    }


def _floor(study: Study, words: Sequence[str], again: Mapping[str, Path], *, seed: int) -> float:
    """Return the score of two single-task models of another seed, each for its own task."""
    right: list[float] = []
    for task, run in again.items():
        found = study.look(f"only_{task}", words, run=run, seed=seed)["entanglement"]
        rows = {row["table"]: row for row in found["tables"]}
        right.append(rows["main"]["correct_ratio"][task])
    return 1 - float(np.mean(right))


def make_contrary(source: Path, *, output: Path) -> Path:
    """Copy a simulated world with a second task: the click, turned around for odd categories."""
    if output.exists():
        return output
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=output.parent))
    shutil.copytree(source, temporary, dirs_exist_ok=True)
    for path in sorted(temporary.glob("day=*/*.parquet")):
        table = pq.read_table(path)
        click = table["click"].to_numpy().astype(bool)
        odd = table["category"].to_numpy() % 2 == 1
        known = np.asarray(table["long_view"].is_valid())
        turned = pa.array((click ^ odd).astype(np.int8), mask=~known)
        at = table.column_names.index("long_view")
        groups = pq.ParquetFile(path).metadata.row_group(0).num_rows
        pq.write_table(table.set_column(at, "long_view", turned), path, row_group_size=groups)
    temporary.rename(output)
    return output


def main() -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(description="What analyse sees in models trained here.")
    parser.add_argument("part", choices=["collapse", "entanglement"])
    parser.add_argument("--world", choices=sorted(WORLDS), required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--contrary", action="store_true")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    told = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    with tempfile.NamedTemporaryFile() as meeting:
        ranks = connect(0, 1, FileStore(meeting.name, 1))
        data = told.data
        if told.contrary:
            data = make_contrary(data, output=told.output / "data")
        world = WORLDS[told.world]
        by_seed = world.by_seed and told.part == "collapse"
        study = Study(world=world, data=data, output=told.output, ranks=ranks, by_seed=by_seed)
        run = collapse if told.part == "collapse" else entanglement
        found = run(study, seeds=range(told.seeds))
    found |= {
        "contrary": told.contrary,
        "part": told.part,
        "world": told.world,
        "cpu_seconds": time.process_time() - started,
    }
    print(json.dumps(found, indent=None if told.json else 2))


if __name__ == "__main__":
    main()
