"""The tiny dataset, written and read once."""

from dataclasses import replace

import pytest
import torch

from lfm4ads.data.schema import load_schema
from tests.batches import read_batches
from tests.worlds import write_tiny


@pytest.fixture(scope="package")
def tiny(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny") / "data", days=1, rows=300)


@pytest.fixture(scope="package")
def schema(tiny):
    return load_schema(tiny)


@pytest.fixture(scope="package")
def rows(tiny):
    return read_batches(tiny)


@pytest.fixture
def batches(rows):
    """300 rows in five batches, the last one padded."""
    return [replace(batch, reps={}, present={}) for batch in rows]


@pytest.fixture(autouse=True)
def _same_draws():
    torch.manual_seed(7)
    torch.set_num_threads(1)  # small tensors: a second thread only waits
