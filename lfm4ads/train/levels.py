"""Fit the quantisers of a model's numbers on training days."""

from collections.abc import Iterator

import numpy as np
from torch import nn

from lfm4ads.core.ranks import Ranks
from lfm4ads.data.attach import RepsReader
from lfm4ads.data.batch import Batch
from lfm4ads.data.hashing import mix64
from lfm4ads.data.reader import Reader
from lfm4ads.data.schema import Schema
from lfm4ads.nn.numbers import NumeralNumbers
from lfm4ads.train.loop import agreed

_SAMPLE_ROWS = 1 << 17


def fit_levels(
    model: nn.Module, reader: Reader | RepsReader, *, schema: Schema, day: int, ranks: Ranks
) -> None:
    """Fit every quantiser of ``model``, not yet sharded, on rows of one training day. Collective.

    The rows with the smallest hashes are taken, at most 131,072: a sample that does not depend on
    the number of ranks. Does nothing for a model without quantisers.
    """
    encoders = [module for module in model.modules() if isinstance(module, NumeralNumbers)]
    if not encoders:
        return
    names = schema.select(kind="number")
    sample_MF = _sample(agreed(reader.day(day), ranks=ranks), width=len(names), ranks=ranks)
    for encoder in encoders:
        encoder.quantiser.fit(sample_MF[:, [names.index(name) for name in encoder.names]])


def _sample(batches: Iterator[Batch | None], *, width: int, ranks: Ranks) -> np.ndarray:
    hashes, numbers = [np.zeros(0, np.uint64)], []
    for batch in batches:
        if batch is None:
            break
        valid = batch.valid.numpy()
        keys = [getattr(batch, name).numpy()[valid] for name in ("user", "item", "time")]
        mixed = np.zeros(len(keys[0]), np.uint64)
        for key in keys:
            mixed = mix64(key.astype(np.uint64) ^ mixed)
        numbers.append(batch.numbers.numpy()[valid])
        hashes.append(mixed)
        if sum(map(len, hashes)) > 4 * _SAMPLE_ROWS:
            kept_M, kept_MF = _smallest(np.concatenate(hashes), np.concatenate(numbers))
            hashes, numbers = [kept_M], [kept_MF]
    own_M = np.concatenate(hashes)
    own_MF = np.concatenate([np.zeros((0, width), np.float32), *numbers])
    own_M, own_MF = _smallest(own_M, own_MF)
    all_M = np.concatenate(ranks.gather(own_M))
    all_MF = np.concatenate(ranks.gather(own_MF))
    return _smallest(all_M, all_MF)[1]


def _smallest(hashes_M: np.ndarray, rows_MF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(hashes_M, kind="stable")[:_SAMPLE_ROWS]
    return hashes_M[order], rows_MF[order]
