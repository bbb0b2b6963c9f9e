"""One place that seeds torch."""

import torch


def seed_torch(*parts: int) -> None:
    """Seed torch's generators from some integers, the same on every machine."""
    torch.manual_seed(hash(parts))
