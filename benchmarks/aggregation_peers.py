"""The decayed aggregate as DuckDB and Polars give it: the fastest query that was found for each.

Both count ages among the small columns and join them to the vectors, which took 1.1 to 1.5 times
as long with a window over rows with vectors; a row a dimension (UNNEST) took 10 times.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import numpy.typing as npt

Mode = Literal["time", "events"]


def run_duckdb(
    path: Path, mode: Mode, *, dim: int, half_life: float, threads: int
) -> Callable[[], Any]:
    """Return what runs the query to an Arrow table with a row a key."""
    config = {"threads": threads, "memory_limit": "6GB", "temp_directory": str(path.parent)}
    query = _sql(path, mode, dim=dim, half_life=half_life)

    def run() -> Any:
        with duckdb.connect(config=config) as connection:
            return connection.sql(query).to_arrow_table()

    return run


def _sql(path: Path, mode: Mode, *, dim: int, half_life: float) -> str:
    file = f"read_parquet('{path}')"
    sums = ", ".join(f"sum(w * vector[{column + 1}]) AS s{column}" for column in range(dim))
    if mode == "time":
        ages = f'SELECT key AS k, max("time") AS last FROM {file} GROUP BY key'
        age, where = 'last - "time"', "key = ages.k"
    else:
        nth = 'row_number() OVER (PARTITION BY key ORDER BY "time", row_id)'
        ages = f"SELECT row_id AS r, count(*) OVER (PARTITION BY key) - {nth} AS age FROM {file}"
        age, where = "age", "row_id = ages.r"
    weight = f"exp(-ln(2) * ({age}) / {half_life}) AS w"
    joined = f"SELECT key, vector, {weight} FROM {file} JOIN ages ON {where}"
    return f"WITH ages AS ({ages}), e AS ({joined}) SELECT key, {sums} FROM e GROUP BY key"


def run_polars(path: Path, mode: Mode, *, dim: int, half_life: float) -> Callable[[], Any]:
    """Return what runs the query, scanned lazily and streamed, to a frame with a row a key.

    As many threads as POLARS_MAX_THREADS said when the process began. Sums of products that are
    columns of their own took as long as sums of expressions, and half the memory.
    """
    pl = import_module("polars")  # a peer, installed only where this is run
    file, rate = pl.scan_parquet(path), -float(np.log(2)) / half_life
    if mode == "time":
        ages = file.group_by("key").agg(last=pl.col("time").max())
        age, where = pl.col("last") - pl.col("time"), "key"
    else:
        ordered = file.select("key", "time", "row_id").sort("time", "row_id", descending=True)
        ages = ordered.select("row_id", age=pl.int_range(pl.len()).over("key"))
        age, where = pl.col("age"), "row_id"
    vector, weight = pl.col("vector"), (age * rate).exp()
    weighted = (
        file.join(ages, on=where)
        .select("key", "vector", w=weight)
        .select("key", *((vector.arr.get(i) * pl.col("w")).alias(f"s{i}") for i in range(dim)))
    )
    query = weighted.group_by("key").agg(*(pl.col(f"s{column}").sum() for column in range(dim)))
    return lambda: query.collect(engine="streaming")


def sorted_sums(result: Any, *, dim: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return keys (K,) in order and their sums (K, D) of an Arrow table or a frame."""
    keys = result["key"].to_numpy()
    order = np.argsort(keys)
    sums = np.empty((len(keys), dim))
    for column in range(dim):
        sums[:, column] = result[f"s{column}"].to_numpy()[order]
    return keys[order], sums
