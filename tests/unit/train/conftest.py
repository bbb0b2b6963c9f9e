"""All rows of the tiny dataset."""

from dataclasses import replace

import pytest


@pytest.fixture
def batches(rows):
    """300 rows in five batches, the last one padded."""
    return [replace(batch, reps={}, present={}) for batch in rows]
