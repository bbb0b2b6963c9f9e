"""Rows a second the ads world is generated and written at, on one core.

    python -m benchmarks.simulator [--json] [configs/prepare/adsworld.yaml [key=value ...]]

Counts the processor time of a whole prepare (base rates, generation, Parquet, oracle), so other
programs on the machine do not disturb it. The target is 200,000 rows/s at default width.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from data.adsworld.prepare import Config, run
from lfm4ads.core.config import load_config
from lfm4ads.core.files import read_json
from lfm4ads.data.dataset import MANIFEST

TARGET_ROWS_PER_SECOND = 200_000
_REPEATS = 3


def main(argv: Sequence[str]) -> None:
    """Prepare the world three times and print the fastest; with --json the last line is JSON."""
    words = [word for word in argv if word != "--json"] or ["configs/prepare/adsworld.yaml"]
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(Config, [*words, f"output={folder}/world", "overwrite=true"])
        seconds = min(_cpu_seconds(config) for _ in range(_REPEATS))
        rows = read_json(config.output / MANIFEST)["rows"]
        size_bytes = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
    result = {
        "rows": rows,
        "cpu_seconds": round(seconds, 3),
        "rows_per_second": round(rows / seconds),
        "ratio_to_target": round(rows / seconds / TARGET_ROWS_PER_SECOND, 3),
        "bytes_per_row": round(size_bytes / rows, 1),
    }
    if "--json" in argv:
        print(json.dumps(result))
    else:
        print(
            f"{rows:,} rows in {seconds:.2f} s of one core: {result['rows_per_second']:,} rows/s, "
            f"{result['ratio_to_target']:.2f} of the target, {result['bytes_per_row']} bytes a row"
        )


def _cpu_seconds(config: Config) -> float:
    began = time.process_time()
    run(config)
    return time.process_time() - began


if __name__ == "__main__":
    main(sys.argv[1:])
