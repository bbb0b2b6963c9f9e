"""Moments of representations over the rows a downstream model first trains on."""

import numpy as np
import torch

from lfm4ads.core.ranks import Ranks
from lfm4ads.data.attach import RepsReader
from lfm4ads.nn.standardise import Standardiser
from lfm4ads.train.loop import agreed


def fit_standardiser(
    standardiser: Standardiser, reader: RepsReader, *, day: int, ranks: Ranks
) -> None:
    """Set mean and std from the rows of one day that have the representation. Collective.

    Every row is on exactly one rank, so the moments do not depend on the number of ranks.
    """
    sums = {
        name: np.zeros((3, len(standardiser.get_buffer(f"mean_{name.replace('.', '_')}"))))
        for name in standardiser.names
    }
    for batch in agreed(reader.day(day), ranks=ranks):
        if batch is None:
            break
        for name, total in sums.items():
            values = batch.reps[name][batch.present[name] > 0].double().numpy()
            total += np.stack(
                [np.full(total.shape[1], len(values)), values.sum(0), (values**2).sum(0)]
            )
    for name, local in sums.items():
        count, first, second = ranks.sum(local)
        mean = first / np.maximum(count, 1)
        variance = second / np.maximum(count, 1) - mean**2
        std = np.where(count > 1, np.sqrt(np.maximum(variance, 0)), 1.0)
        standardiser.set_moments(
            name, mean=torch.from_numpy(mean).float(), std=torch.from_numpy(std).float()
        )
