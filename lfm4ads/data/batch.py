"""Rows on their way to a model.

Dimension key: B rows, N numbers, V summed lengths of vector features, T tasks, D width of a
representation.
"""

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


@dataclass
class Batch:
    """One rank's share of one global step; ranks hold equally many rows, ``valid`` or padding."""

    sparse: KeyedJaggedTensor
    """Table rows of every id, ids and sequence feature, keyed by feature name; of features of a
    managed table ids, evenly spread over [0, 2^63)."""
    numbers: Tensor
    """(B, N) float32, standardised; NaN where there is none."""
    vectors: Tensor
    """(B, V) float32, vector features side by side; all NaN where a row has none."""
    labels: Tensor
    """(B, T) float32; 0 where masked."""
    masks: Tensor
    """(B, T) float32; 1 where the row has the label."""
    user: Tensor
    item: Tensor
    time: Tensor
    domain: Tensor
    scenario: Tensor
    row_id: Tensor
    """(B,) int64 each; time in milliseconds."""
    valid: Tensor
    """(B,) bool; padding comes last."""
    day: int
    ages: dict[str, Tensor] = field(default_factory=dict)
    """Seconds (float32, at least 0) from event to row, by sequence with times; aligned with
    ``sparse[feature].values()``."""
    reps: dict[str, Tensor] = field(default_factory=dict)
    """Frozen representations by name, (B, D) float32; zero where absent."""
    present: dict[str, Tensor] = field(default_factory=dict)
    """(B,) float32 per representation; 1 where the key has one."""

    def __len__(self) -> int:
        return self.valid.shape[0]

    @property
    def num_valid(self) -> int:
        """How many rows are none of the padding; they come first."""
        return int(self.valid.sum())

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Batch":
        """Return the batch on another device."""
        if device.type == "cpu":
            return self
        moved: dict[str, object] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, Tensor | KeyedJaggedTensor):
                moved[part.name] = value.to(device, non_blocking=non_blocking)
            elif isinstance(value, dict):
                moved[part.name] = {
                    name: tensor.to(device, non_blocking=non_blocking)
                    for name, tensor in value.items()
                }
        return replace(self, **moved)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the batch's memory until what a CUDA stream does with it is done."""
        for part in fields(self):
            value = getattr(self, part.name)
            tensors = value.values() if isinstance(value, dict) else [value]
            for tensor in tensors:
                if isinstance(tensor, Tensor | KeyedJaggedTensor):
                    tensor.record_stream(stream)
