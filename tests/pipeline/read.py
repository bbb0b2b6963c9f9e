"""What stages left on disk, read without their own readers."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SIDES = ("user", "item")


def read_json(path: Path):
    return json.loads(path.read_text())


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_meta(checkpoint: Path, text: str) -> None:
    """Give a checkpoint another ``meta.json`` and seal it again, as no stage would."""
    (checkpoint / "meta.json").write_text(text)
    seal = read_json(checkpoint / "manifest.json")
    digest = hashlib.sha256(text.encode()).hexdigest()
    seal["files"]["meta.json"] = {"bytes": len(text.encode()), "sha256": digest}
    (checkpoint / "manifest.json").write_text(json.dumps(seal))


def rep_rows(snapshot: Path, side: str) -> pa.Table:
    """Return all keys of a side with their columns, sorted by key, whoever owns them."""
    parts = sorted((snapshot / side).glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts]).sort_by("key")


def column(table: pa.Table, name: str) -> np.ndarray:
    """Return a column with zeros for nulls, vectors as a matrix."""
    values = table[name].combine_chunks()
    if pa.types.is_fixed_size_list(values.type):
        valid = values.is_valid().to_numpy(zero_copy_only=False)
        matrix = np.zeros((len(values), values.type.list_size), dtype=np.float32)
        matrix[valid] = values.flatten().to_numpy().reshape(-1, values.type.list_size)
        return matrix
    return values.fill_null(0).to_numpy(zero_copy_only=False)


def rewrite_parts(snapshot: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change every part of a snapshot, and its manifest with it."""
    manifest = read_json(snapshot / "manifest.json")
    for file in manifest["files"]:
        path = snapshot / file["path"]
        pq.write_table(change(pq.read_table(path)), path)
        file["num_bytes"] = path.stat().st_size
        file["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (snapshot / "manifest.json").write_text(json.dumps(manifest))


def with_vectors(
    table: pa.Table, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> pa.Table:
    """Return the table with other vectors in a column, nulls where they were."""
    values = table[name].combine_chunks()
    matrix = change(column(table, name)).astype(np.float32)
    absent = values.is_null()
    vectors = pa.FixedSizeListArray.from_arrays(matrix.reshape(-1), matrix.shape[1], mask=absent)
    return table.set_column(table.column_names.index(name), table.field(name), vectors)


def predictions(run: Path, split: str) -> pa.Table:
    """Return the scored rows of a split, sorted by row id, whoever scored them."""
    parts = sorted((run / "predictions" / f"split={split}").glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts]).sort_by("row_id")


def dataset_rows(data: Path, days: list[int], columns: list[str]) -> pa.Table:
    parts = [part for day in days for part in sorted((data / f"day={day}").glob("*.parquet"))]
    return pa.concat_tables([pq.read_table(part, columns=columns) for part in parts])
