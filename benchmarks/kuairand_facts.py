"""What the converter makes of a real KuaiRand folder: rows, click rates, speed, memory.

    python -m benchmarks.kuairand_facts <folder> <output> [rows]

Prints a line for each domain, day and tab, the click rate of each tab, the rows a second and the
peak memory. With ``rows`` it fails unless exactly so many were kept. The output is overwritten.
"""

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from data.kuairand.prepare import Config, run
from lfm4ads.data.schema import load_schema

COLUMNS = ["row_id", "time_ms", "domain", "scenario", "is_click", "long_view", "is_like"]


def main(words: Sequence[str]) -> None:
    """Convert, check and count."""
    source, output = Path(words[0]), Path(words[1])
    started = time.perf_counter()
    run(Config(source=source, output=output, overwrite=True))
    seconds = time.perf_counter() - started
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rows = _read(output)
    _check(rows, num_rows=int(words[2]) if len(words) > 2 else rows.num_rows)
    schema = load_schema(output)
    _print_counts(rows, names=schema.domains, column="domain")
    _print_counts(rows, names=schema.scenarios, column="scenario")
    for day, count in sorted(_counts(rows, "day").items()):
        print(f"day {day}: {count} rows")
    rate = rows.num_rows / seconds
    print(
        f"{rows.num_rows} rows in {seconds:.1f} s, {rate:.0f} rows/s, {peak_bytes / 2**30:.2f} GiB"
    )


def _read(dataset: Path) -> pa.Table:
    tables = []
    for folder in sorted(dataset.glob("day=*")):
        table = ds.dataset(sorted(folder.glob("*.parquet"))).to_table(columns=COLUMNS)
        days = pa.array([int(folder.name.removeprefix("day="))] * table.num_rows)
        tables.append(table.append_column("day", days))
    return pa.concat_tables(tables)


def _check(rows: pa.Table, *, num_rows: int) -> None:
    if rows.num_rows != num_rows:
        raise SystemExit(f"{num_rows} rows were expected, {rows.num_rows} were written")
    if rows["row_id"].to_pylist() != list(range(num_rows)):
        raise SystemExit("row_id does not number the rows in order")
    times = rows["time_ms"].to_numpy()
    if (times[1:] < times[:-1]).any():
        raise SystemExit("rows are not in time order")


def _counts(rows: pa.Table, column: str) -> dict[int, int]:
    return {int(pair["values"]): pair["counts"] for pair in rows[column].value_counts().to_pylist()}


def _print_counts(rows: pa.Table, *, names: Sequence[str], column: str) -> None:
    values = rows[column].to_numpy()
    for value, count in sorted(_counts(rows, column).items()):
        part = rows.filter(pa.array(values == value))
        means = [
            f"{label} {part[label].drop_null().to_numpy().mean():.4f}"
            for label in ("is_click", "long_view", "is_like")
            if part[label].null_count < part.num_rows
        ]
        print(f"{column} {names[value]}: {count} rows, {', '.join(means)}")


if __name__ == "__main__":
    main(sys.argv[1:])
