"""What a downstream model knows of its first training day before it starts."""

import numpy as np
import torch

from lfm4ads.core.ranks import Ranks
from lfm4ads.data.attach import RepsReader
from lfm4ads.nn.heads import ScenarioHeads
from lfm4ads.nn.standardise import Standardiser
from lfm4ads.train.loop import agreed


def fit_standardiser(
    standardiser: Standardiser, reader: RepsReader, *, day: int, ranks: Ranks
) -> None:
    """Set mean and std from the rows of one day that have the representation. Collective.

    Every row is on exactly one rank, so the moments do not depend on the number of ranks.
    """
    sums = {name: np.zeros((3, dim)) for name, dim in standardiser.dims.items()}
    for batch in agreed(reader.day(day), ranks=ranks):
        if batch is None:
            break
        for name in sums:
            values = batch.reps[name][batch.present[name] > 0].double().numpy()
            sums[name] += np.stack(
                [np.full(values.shape[1], len(values)), values.sum(0), (values**2).sum(0)]
            )
    for name, local in sums.items():
        count, first, second = ranks.sum(local)
        mean = first / np.maximum(count, 1)
        variance = second / np.maximum(count, 1) - mean**2
        std = np.where(count > 1, np.sqrt(np.maximum(variance, 0)), 1.0)
        standardiser.set_moments(
            name, mean=torch.from_numpy(mean).float(), std=torch.from_numpy(std).float()
        )


def fit_prior(
    heads: ScenarioHeads, reader: RepsReader, *, day: int, tasks: list[int], ranks: Ranks
) -> None:
    """Set each head's bias to the log odds of its (scenario, task) on one day. Collective.

    Otherwise the first epoch of a rare label is spent on finding its base rate. A scenario of few
    rows is drawn to the rate of all, as if 100 of its rows had that rate.
    """
    scenarios = heads.bias.shape[0]
    counts = np.zeros((2, scenarios, len(tasks)))
    for batch in agreed(reader.day(day), ranks=ranks):
        if batch is None:
            break
        scenario = batch.scenario.numpy()
        for kind, values in enumerate((batch.masks, batch.labels)):
            np.add.at(counts[kind], scenario, values[:, tasks].double().numpy())
    rows, positives = ranks.sum(counts)
    overall = (positives.sum(0) + 1) / (rows.sum(0) + 2)
    rate = (positives + 100 * overall) / (rows + 100)
    with torch.no_grad():
        heads.bias.copy_(torch.from_numpy(np.log(rate / (1 - rate))).float())
