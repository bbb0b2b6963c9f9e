"""How often an item was shown lately: what no click model's IR knows and every log of clicks shows.

Dimension key: N items, B rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.data.attach import RepsReader
from lfm4ads.data.batch import Batch
from lfm4ads.data.moments import Moments
from lfm4ads.train.softmax import Frequency, frequency

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]

POPULARITY = "item.popularity"


@dataclass(frozen=True, kw_only=True)
class Popularity:
    """Log share of the rows of the last days before a day; nothing of the day itself enters."""

    shown: Mapping[int, tuple[Int64s, Int64s]]
    """By day: sorted items and the rows of each."""
    window: int
    """Days with rows that count."""

    def of(self, items: Int64s, *, day: int) -> Float32s:
        """Return the log share (N, 1) of items (N,); one that was not shown has half a row's."""
        return self._before(day).of(items)[:, None]

    def moments(self, day: int) -> Moments:
        """Return mean and spread over the items that had been shown."""
        values = self._before(day).log_share.astype(np.float64)
        return Moments(
            mean=values.mean(keepdims=True),
            std=np.maximum(values.std(keepdims=True), 1e-3),
        )

    def _before(self, day: int) -> Frequency:
        days = sorted(one for one in self.shown if one < day)[-self.window :]
        if not sum(len(self.shown[one][0]) for one in days):
            raise UserError(
                f"model.popularity_days needs rows before {day} and there are none; train from a"
                " later day, or set it to 0"
            )
        items = np.concatenate([self.shown[one][0] for one in days])
        rows = np.concatenate([self.shown[one][1] for one in days])
        keys, place = np.unique(items, return_inverse=True)
        counts = np.bincount(place, weights=rows, minlength=len(keys))
        return frequency(keys, counts.astype(np.int64))


class PopularReader:
    """Reads days like ``RepsReader`` and puts the items' popularity on every batch."""

    def __init__(self, reader: RepsReader, popularity: Popularity) -> None:
        self._reader = reader
        self._popularity = popularity

    def num_steps(self, day: int) -> int:
        """Return the number of global steps of a day."""
        return self._reader.num_steps(day)

    def day(self, day: int, *, epoch: int = 0) -> Iterator[Batch]:
        """Yield this rank's batches of a day. Collective."""
        for batch in self._reader.day(day, epoch=epoch):
            values = self._popularity.of(batch.item.numpy(), day=day)
            batch.reps[POPULARITY] = torch.from_numpy(values)
            batch.present[POPULARITY] = batch.valid.float()
            yield batch
