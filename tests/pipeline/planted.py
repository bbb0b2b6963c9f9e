"""Representations whose useful dims are known: everything else in them is noise."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.pipeline.read import SIDES, column, read_json, rewrite_parts, with_vectors

USEFUL = {"user": ("ur", 3), "item": ("ir", 5)}
"""Representation and dim that hold how often a key is clicked; no other one holds anything."""


def click_rates(data, side):
    """Return the share of clicked ads rows of every key, pulled to the middle if they are few."""
    rows = pa.concat_tables(
        [
            pq.read_table(path, columns=[side, "domain", "click"])
            for path in sorted(data.glob("day=*/*.parquet"))
        ]
    )
    keys, clicks = rows[side].to_numpy(), rows["click"].to_numpy()
    ads = rows["domain"].to_numpy() == 1
    unique, at = np.unique(keys[ads], return_inverse=True)
    total, seen = np.bincount(at, clicks[ads]), np.bincount(at)
    overall = clicks[ads].mean()
    rates = (total + 2 * overall) / (seen + 2)
    return dict(zip(unique.tolist(), ((rates - rates.mean()) / rates.std()).tolist(), strict=True))


def plant(story, folder):
    """Copy the representations of a story and put noise and the planted dims into them."""
    shutil.copytree(story.reps, folder)
    generator = np.random.default_rng(0)
    rates = {side: click_rates(story.data, side) for side in SIDES}
    for snapshot in sorted(folder.glob("upstream=*/as_of=*")):
        names = {
            side: [
                spec["name"]
                for spec in read_json(snapshot / "manifest.json")["representations"]
                if spec["side"] == side
            ]
            for side in SIDES
        }

        def planted(table, names=names):
            side = "user" if "ur" in table.column_names else "item"
            for name in names[side]:
                table = with_vectors(table, name, lambda old: generator.normal(size=old.shape))
            name, dim = USEFUL[side]
            values = column(table, name)
            rate = [rates[side].get(key, 0.0) for key in table["key"].to_pylist()]
            values[:, dim] = np.array(rate) + 0.1 * values[:, dim]
            return with_vectors(table, name, lambda _: values)

        rewrite_parts(snapshot, planted)
        _level(snapshot / "manifest.json")
    return folder


def _level(path):
    """Say that all vectors have mean 0 and spread 1, as they now do."""
    manifest = read_json(path)
    for file in manifest["files"]:
        for name, (count, _, _) in file["sums"].items():
            width = len(count)
            file["sums"][name] = [[1.0] * width, [0.0] * width, [1.0] * width]
    path.write_text(json.dumps(manifest))
