"""Frozen representations put on one scale before a downstream model reads them.

Dimension key: B rows, R summed width of the representations.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lfm4ads.core.errors import UserError
from lfm4ads.data.batch import Batch
from lfm4ads.data.moments import Moments

_LIMIT = 8.0


class Standardiser(nn.Module):
    """(x - mean) / std per dimension, zero where a key has no representation.

    Representations of all keys share a large common part; what tells keys apart is a small
    deviation from it, which a network of the downstream's size does not find by itself.
    """

    def __init__(
        self, dims: Mapping[str, int], *, chosen: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        """Take the stored widths; of a representation in ``chosen`` those dims are read."""
        super().__init__()
        self._chosen = {name: list(some) for name, some in (chosen or {}).items() if name in dims}
        for name, some in self._chosen.items():
            if max(some) >= dims[name]:
                raise UserError(
                    f"dim {max(some)} of {name} is asked for, which has {dims[name]}; choose dims"
                    " of the representations that are read here",
                    everywhere=True,
                )
            self.register_buffer(_buffer("dims", name), torch.tensor(some), persistent=False)
        self.dims = {name: len(self._chosen.get(name, range(dim))) for name, dim in dims.items()}
        for name, dim in self.dims.items():
            self.register_buffer(_buffer("mean", name), torch.zeros(dim))
            self.register_buffer(_buffer("std", name), torch.ones(dim))

    def set_moments(self, moments: Mapping[str, Moments]) -> None:
        """Fix the mean and std of every representation."""
        for name in self.dims:
            some, own = self._chosen.get(name, slice(None)), moments[name]
            self.get_buffer(_buffer("mean", name)).copy_(torch.from_numpy(own.mean[some]))
            self.get_buffer(_buffer("std", name)).copy_(torch.from_numpy(own.std[some]))

    def forward(self, batch: Batch, names: Sequence[str] | None = None) -> Tensor:
        """Return the named representations side by side (B, R); all of them when None."""
        parts: list[Tensor] = []
        for name in self.dims if names is None else names:
            mean_D = self.get_buffer(_buffer("mean", name))
            std_D = self.get_buffer(_buffer("std", name))
            raw_BD = batch.reps[name]
            if name in self._chosen:
                raw_BD = raw_BD.index_select(1, self.get_buffer(_buffer("dims", name)))
            scaled_BD = ((raw_BD - mean_D) / std_D).clamp(-_LIMIT, _LIMIT)
            parts.append(scaled_BD * batch.present[name].unsqueeze(1))
        return torch.cat(parts, dim=1)


def _buffer(kind: str, name: str) -> str:
    return f"{kind}_{name.replace('.', '_')}"
