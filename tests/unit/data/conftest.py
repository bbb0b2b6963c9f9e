"""Fixtures of the tests of lfm4ads.data."""

import pytest


@pytest.fixture
def small_files(monkeypatch):
    """Row groups of a few rows, so that merges cross many of their borders."""
    monkeypatch.setattr("lfm4ads.data.part.ROW_GROUP_ROWS", 7)
