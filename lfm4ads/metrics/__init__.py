"""Metrics as pure functions and mergeable accumulators."""
