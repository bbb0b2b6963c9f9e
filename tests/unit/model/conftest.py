"""Rows of the domain that downstream models train on."""

from dataclasses import replace

import pytest

from tests.batches import read_batches


@pytest.fixture(scope="package")
def ads_rows(tiny):
    found = read_batches(tiny, domains=("ads",))[0]
    assert found.domain.min() == found.domain.max() == 1
    return found


@pytest.fixture
def ads(ads_rows):
    """64 rows of the domain ads; representations put on it stay with the test."""
    return replace(ads_rows, reps={}, present={})
