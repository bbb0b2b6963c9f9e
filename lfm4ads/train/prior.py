"""The base rate that a downstream model starts from."""

import numpy as np
import torch

from lfm4ads.core.ranks import Ranks
from lfm4ads.data.attach import RepsReader
from lfm4ads.nn.heads import ScenarioHeads
from lfm4ads.train.loop import agreed


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
