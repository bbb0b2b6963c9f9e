"""Learning rates over the steps of a run, as factors on the configured rate."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Warm-up, then a constant rate or a decay to a floor.

    A function of the step alone, so that a resumed run goes on where it was.
    """

    kind: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    """The rate grows linearly from zero over so many steps."""
    decay_steps: int = 0
    """Steps after the warm-up in which linear and cosine reach the floor."""
    floor_ratio: float = 0.1
    """Rate at the end of the decay and after it, as a share of the configured one."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 0 or self.decay_steps < 0:
            raise ValueError("schedule.warmup_steps and decay_steps must not be negative")
        if (self.kind == "constant") != (self.decay_steps == 0):
            raise ValueError(
                f"schedule.decay_steps is {self.decay_steps} for kind {self.kind}: linear and"
                " cosine need decay_steps, constant takes none"
            )
        if not 0 <= self.floor_ratio <= 1:
            raise ValueError(f"schedule.floor_ratio must be in [0, 1], got {self.floor_ratio}")

    @property
    def is_constant(self) -> bool:
        """Whether the rate never moves."""
        return self.kind == "constant" and not self.warmup_steps

    def factor(self, step: int) -> float:
        """Return the factor at a step, counted from 0; the first step of a warm-up is not zero."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return 1.0
        done = min((step - self.warmup_steps) / self.decay_steps, 1.0)
        left = 1 - done if self.kind == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.floor_ratio + (1 - self.floor_ratio) * left
