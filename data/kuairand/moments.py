"""Mean and deviation of number columns, gathered block by block."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass
class _Sums:
    count: int = 0
    total: float = 0.0
    squares: float = 0.0


class Moments:
    """Sums of number columns, null values left out."""

    def __init__(self, logged: Mapping[str, bool]) -> None:
        """Args: logged: for each column whether it is read as sign(x) * log(1 + |x|)."""
        self._logged = dict(logged)
        self._sums = {name: _Sums() for name in logged}

    def add(self, rows: pa.Table) -> None:
        """Count the values of some rows."""
        for name, sums in self._sums.items():
            values = rows[name].drop_null().to_numpy().astype(np.float64)
            if self._logged[name]:
                values = np.sign(values) * np.log1p(np.abs(values))
            sums.count += len(values)
            sums.total += float(values.sum())
            sums.squares += float((values**2).sum())

    def has(self, name: str) -> bool:
        """Whether any value was seen."""
        return self._sums[name].count > 0

    def of(self, name: str) -> tuple[float, float]:
        """Return mean and standard deviation; (0, 1) without values, deviation 1 for a constant."""
        sums = self._sums[name]
        if not sums.count:
            return 0.0, 1.0
        mean = sums.total / sums.count
        std = max(sums.squares / sums.count - mean**2, 0.0) ** 0.5
        return mean, std if std > 1e-6 * max(1.0, abs(mean)) else 1.0
