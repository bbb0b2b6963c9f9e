"""Stages end to end on tiny worlds."""
