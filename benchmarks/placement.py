"""Sharding type x optimiser x ranks against one process: the largest difference of any weight.

    python -m benchmarks.placement --json

Every case trains ten steps on gloo ranks of this machine, pretending several hosts where a name
says so, and compares all tables and the head with ``nn.EmbeddingBag``, ``nn.Embedding`` and
optimisers from their formulas, on one process in float64. ``pooled`` are tables read as sums over
bags; ``unpooled`` those read id by id, which have fewer kinds. The last line is one JSON object.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.gloo import run_ranks
from tests.multiproc.matrix import (
    ALONE,
    APART,
    HOST_KINDS,
    KINDS,
    OPTIMISERS,
    UNPOOLED_KINDS,
    Hosts,
    reference,
    run_matrix,
)
from tests.multiproc.weights import Weights, join_weights

_TIMEOUT_SECONDS = 900


def cases_of(hosts: Hosts) -> list[tuple[str, str]]:
    """Return (kind, optimiser) of a layout; of several hosts only the kinds that know them."""
    kinds = HOST_KINDS if hosts in APART else KINDS
    return [(kind, optimiser) for kind in kinds for optimiser in OPTIMISERS]


def differences(found: Weights, wanted: Weights) -> dict[str, float]:
    """Return the largest difference of each part of the model."""
    assert found.keys() == wanted.keys()
    parts = {"pooled": "bags.", "unpooled": "rows.", "dense": "head."}
    return {
        part: max(
            float(np.abs(found[name] - wanted[name]).max())
            for name in found
            if name.startswith(prefix)
        )
        for part, prefix in parts.items()
    }


def measure() -> Iterator[dict[str, Any]]:
    """Yield the figures of every case."""
    for hosts in (*ALONE, *APART):
        cases = cases_of(hosts)
        results = run_ranks(
            run_matrix, hosts.world, cases, seconds=_TIMEOUT_SECONDS, host_ranks=hosts.host_ranks
        )
        for kind, optimiser in cases:
            found = join_weights([one[kind, optimiser] for one in results])
            apart = differences(found, reference(kind, optimiser, hosts=hosts))
            if kind not in UNPOOLED_KINDS:
                del apart["unpooled"]  # placed table_wise in this case
            yield {"layout": str(hosts), "kind": kind, "optimiser": optimiser, **apart}


def main() -> None:
    """Print every case and, with ``--json``, all of them in one line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for row in measure():
        rows.append(row)
        words = "  ".join(f"{part} {row[part]:.1e}" for part in row if isinstance(row[part], float))
        print(f"{row['layout']:20} {row['kind']:18} {row['optimiser']:16} {words}", flush=True)
    if options.json:
        worst = {
            part: max(row[part] for row in rows if part in row)
            for part in ("pooled", "unpooled", "dense")
        }
        print(json.dumps({"cases": rows, "worst": worst}))


if __name__ == "__main__":
    main()
