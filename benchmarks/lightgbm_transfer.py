"""Boosted trees on what the downstream model reads, and on the dumped representations as columns.

python -m benchmarks.lightgbm_transfer --config configs/transfer/kuairand_causal.yaml \
    --data runs/kuairand_causal --json

Needs `pip install lightgbm`. ``--data`` is the folder an experiment wrote, with its ``data`` and
``reps``; ``--config`` names the features, days and scenarios, so trees and arms see the same. Trees
train on the train days, stop on the valid days, and are judged by the mean AUC over scenarios on
the test days. Ids of more than 256 values enter as click rates over earlier days, smoothed; the
others as categories.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score

from lfm4ads.core.config import load_config
from lfm4ads.core.ranks import Ranks
from lfm4ads.data.attach import Reps, RepsReader, all_representations, resolve_version
from lfm4ads.data.batch import Batch
from lfm4ads.data.index import open_dataset, select_rows
from lfm4ads.data.reader import Reader, ReaderConfig
from lfm4ads.data.schema import Schema
from lfm4ads.model.arm import match_names
from lfm4ads.stages.transfer import Config

Floats = npt.NDArray[np.float64]
CATEGORIES = 256
SMOOTHING = 20
WAYS = {
    "raw": (),
    "+ UR": ("user.ur",),
    "+ UR, IR": ("user.ur", "item.ir"),
    "+ CR": ("*.cr_*",),
    "+ all": ("*",),
}


@dataclass(frozen=True)
class Rows:
    """Rows of all days as columns."""

    plain_NF: Floats
    """Raw features; a missing one is NaN."""
    categories: list[int]
    """Which of them are categories."""
    reps: dict[str, Floats]
    """(N, D) by name, NaN where absent."""
    label_N: Floats
    scenario_N: npt.NDArray[np.int64]
    day_N: npt.NDArray[np.int64]


def main() -> None:
    """Print a line a way and seed mean; with --json one object at the end."""
    parser = argparse.ArgumentParser(
        description="Boosted trees on raw features and representations."
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--data", required=True, type=Path, help="folder of data and reps")
    parser.add_argument("--also", metavar="PATTERN", help="one more set of representations")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    paths = [f"input.data={words.data / 'data'}", f"input.reps={words.data / 'reps'}"]
    config = load_config(Config, [words.config, *paths])
    rows, days = _read(config)
    found: dict[str, Any] = {}
    also = {f"+ {words.also}": (words.also,)} if words.also else {}
    for way, patterns in {**WAYS, **also}.items():
        names = match_names(patterns, tuple(rows.reps))
        found[way] = _judge(rows, names, days=days, seeds=words.seeds, threads=words.threads)
        mean = np.mean(found[way]["mean"])
        lift = mean - np.mean(found["raw"]["mean"])
        print(f"{way:9s} mean AUC {mean:.4f} ({lift:+.4f} over raw)", file=sys.stderr)
    if words.json:
        means = {way: float(np.mean(one["mean"])) for way, one in found.items()}
        ratios = {f"{way} to raw": mean / means["raw"] for way, mean in means.items()}
        print(json.dumps({"seeds": words.seeds, "auc": found, "ratios": ratios}))


def _read(config: Config) -> tuple[Rows, dict[str, list[int]]]:
    ranks = Ranks(rank=0, world=1, device=torch.device("cpu"))
    dataset = open_dataset(config.input.data, ranks)
    days = config.split.days(dataset)
    every = [day for some in days.values() for day in some]
    chosen = select_rows(
        dataset, domains=[config.domain], scenarios=config.scenarios, days=every, ranks=ranks
    )
    version = resolve_version(config.input.reps, config.input.upstream)
    names = all_representations(config.input.reps, version=version, day=every[0])
    reps = Reps(config.input.reps, version, names, every[0], config.input.as_of)
    plain = Reader(chosen, config=ReaderConfig(batch_size=8192, shuffle=False), ranks=ranks, seed=0)
    features = config.model.features or tuple(dataset.schema.features)
    parts = [
        _columns(batch, dataset.schema, features=features, names=names, task=config.tasks[0])
        for day in every
        for batch in RepsReader(plain, reps, ranks=ranks).day(day)
    ]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return _rows(columns, names), days


def _columns(
    batch: Batch, schema: Schema, *, features: Sequence[str], names: Sequence[str], task: str
) -> dict[str, npt.NDArray[Any]]:
    """Return a batch's valid rows; of a list the last value alone, since trees take no lists."""
    valid = batch.valid.numpy()
    found: dict[str, npt.NDArray[Any]] = {
        "label": batch.labels[:, list(schema.tasks).index(task)].double().numpy()[valid],
        "scenario": batch.scenario.numpy()[valid],
        "day": np.full(int(valid.sum()), batch.day),
    }
    for name in set(batch.sparse.keys()) & set(features):
        ids = batch.sparse[name]
        lengths, values = ids.lengths().numpy(), ids.values().numpy()
        last = np.full(len(lengths), -1, dtype=np.int64)
        last[lengths > 0] = values[np.cumsum(lengths)[lengths > 0] - 1]
        found[f"id {name}"] = last[valid]
    numbers = schema.select(kind="number")
    for place, name in enumerate(numbers):
        if name in features:
            found[f"number {name}"] = batch.numbers[:, place].double().numpy()[valid]
    for name in names:
        absent = batch.present[name].numpy()[valid] == 0
        vectors = batch.reps[name].double().numpy()[valid]
        vectors[absent] = np.nan
        found[f"rep {name}"] = vectors
    return found


def _rows(columns: dict[str, npt.NDArray[Any]], names: Sequence[str]) -> Rows:
    day_N, label_N = columns["day"], columns["label"]
    plain, categories = [], []
    for name, values in columns.items():
        if name.startswith("number "):
            plain.append(values)
        elif name.startswith("id "):
            distinct, codes = np.unique(values, return_inverse=True)
            if len(distinct) <= CATEGORIES:
                categories.append(len(plain))
                plain.append(codes.astype(np.float64))
            else:
                plain.append(_earlier_rates(codes, label_N=label_N, day_N=day_N))
    return Rows(
        plain_NF=np.stack(plain, axis=1),
        categories=categories,
        reps={name: columns[f"rep {name}"] for name in names},
        label_N=label_N,
        scenario_N=columns["scenario"],
        day_N=day_N,
    )


def _earlier_rates(codes: npt.NDArray[np.int64], *, label_N: Floats, day_N: Floats) -> Floats:
    """Return the click rate of each id on the days before a row's own; NaN without any."""
    rates = np.full(len(codes), np.nan)
    clicks, seen = (np.zeros(codes.max() + 1) for _ in range(2))
    for day in np.unique(day_N):
        today = day_N == day
        if seen.sum():
            overall = clicks.sum() / seen.sum()
            rate = (clicks + SMOOTHING * overall) / (seen + SMOOTHING)
            rates[today] = np.where(seen > 0, rate, np.nan)[codes[today]]
        np.add.at(seen, codes[today], 1)
        np.add.at(clicks, codes[today], label_N[today])
    return rates


def _judge(
    rows: Rows, names: Sequence[str], *, days: dict[str, list[int]], seeds: int, threads: int
) -> dict[str, list[float]]:
    x_NF = np.concatenate([rows.plain_NF, *(rows.reps[name] for name in names)], axis=1)
    # The scenario is a raw feature of every arm: their heads know it.
    x_NF = np.concatenate([x_NF, rows.scenario_N[:, None].astype(np.float64)], axis=1)
    split = {name: np.isin(rows.day_N, some) for name, some in days.items()}
    found: dict[str, list[float]] = {"mean": []}
    for seed in range(seeds):
        score_N = _fit(x_NF, rows, split, seed=seed, threads=threads)
        aucs = {}
        for scenario in np.unique(rows.scenario_N[split["test"]]):
            cell = split["test"] & (rows.scenario_N == scenario)
            aucs[str(scenario)] = float(roc_auc_score(rows.label_N[cell], score_N[cell]))
        for name, auc in aucs.items():
            found.setdefault(name, []).append(auc)
        found["mean"].append(float(np.mean(list(aucs.values()))))
    return found


def _fit(
    x_NF: Floats,
    rows: Rows,
    split: dict[str, npt.NDArray[np.bool_]],
    *,
    seed: int,
    threads: int,
) -> Floats:
    lightgbm = import_module("lightgbm")  # a peer, installed only where this is run
    categories = [*rows.categories, x_NF.shape[1] - 1]
    train, valid = (
        lightgbm.Dataset(
            x_NF[split[name]], rows.label_N[split[name]], categorical_feature=categories
        )
        for name in ("train", "valid")
    )
    settings = {
        "objective": "binary",
        "metric": "auc",
        "learning_rate": 0.05,
        "num_leaves": 15,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5,
        "cat_smooth": 50,
        "num_threads": threads,
        "seed": seed,
        "verbose": -1,
    }
    stop = lightgbm.early_stopping(50, verbose=False)
    trees = lightgbm.train(settings, train, 1000, valid_sets=[valid], callbacks=[stop])
    return np.asarray(trees.predict(x_NF), dtype=np.float64)


if __name__ == "__main__":
    main()
