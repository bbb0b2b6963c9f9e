"""The tiny dataset, written and read once, and what models of it are fed."""

from dataclasses import replace

import pytest
import torch

from lfm4ads.data.schema import load_schema
from tests.batches import read_batches
from tests.worlds import write_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny") / "data", days=1, rows=300)


@pytest.fixture(scope="session")
def schema(tiny):
    return load_schema(tiny)


@pytest.fixture(scope="session")
def rows(tiny):
    """300 rows in five batches, the last one padded."""
    return read_batches(tiny)


@pytest.fixture
def batch(rows):
    """64 rows of both domains; representations put on it stay with the test."""
    return replace(rows[0], reps={}, present={})


@pytest.fixture(autouse=True)
def _same_draws():
    torch.manual_seed(7)
    torch.set_num_threads(1)  # small tensors: a second thread only waits
