"""Distributed training pipeline on sharded sparse embeddings for ads recommendation."""

__version__ = "0.1.0"
