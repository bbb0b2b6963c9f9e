"""The tiny dataset, written and read once, and what models of it are fed."""

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
    return {domains: read_batches(tiny, domains=domains)[0] for domains in ((), ("ads",))}


@pytest.fixture
def batch(rows):
    """64 rows of both domains."""
    return replace(rows[()], reps={}, present={})


@pytest.fixture
def ads(rows):
    """64 rows of the domain ads; representations put on it stay with the test."""
    found = replace(rows[("ads",)], reps={}, present={})
    assert found.domain.min() == found.domain.max() == 1
    return found


@pytest.fixture(autouse=True)
def _same_draws():
    torch.manual_seed(7)
    torch.set_num_threads(1)  # small tensors: a second thread only waits
