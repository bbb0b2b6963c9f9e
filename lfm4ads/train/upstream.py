"""The days an upstream run works through, as a list that can be entered anywhere."""

from dataclasses import dataclass, field
from typing import Literal

from lfm4ads.core.errors import UserError
from lfm4ads.data.index import Dataset

Kind = Literal["train", "validate", "settle", "score", "keep"]


@dataclass(frozen=True, kw_only=True)
class DaysConfig:
    """Which days do what, as YYYYMMDD."""

    first: int
    """First day trained on."""
    base_last: int
    """Last day of the base, which gets up to ``max_epochs`` passes; later days get one each."""
    last: int
    """Last day trained on."""
    max_epochs: int = 1
    valid_days: int = 1
    """Days after the base that choose its number of passes; unused when ``max_epochs`` is 1."""

    def __post_init__(self) -> None:
        if not self.first <= self.base_last <= self.last:
            raise ValueError(
                "days must be first <= base_last <= last,"
                f" got {self.first}, {self.base_last}, {self.last}"
            )
        if self.max_epochs < 1 or self.valid_days < 1:
            raise ValueError("days.max_epochs and days.valid_days must be at least 1")


@dataclass(frozen=True)
class Item:
    """One piece of work; a position in a run is (index of the item, step inside it)."""

    kind: Kind
    day: int = 0
    epoch: int = 0


@dataclass(frozen=True)
class Work:
    """All items of a run, in order."""

    items: tuple[Item, ...]
    valid_days: tuple[int, ...] = field(default=())

    def settle_at(self) -> int:
        """Return the index at which the base is settled, where early stopping jumps to."""
        return next(index for index, item in enumerate(self.items) if item.kind == "settle")


def plan_work(config: DaysConfig, dataset: Dataset) -> Work:
    """Return base epochs with validation, then each later day: score, train, keep a checkpoint.

    A day is scored before it is trained on, so the prequential figures are those of a model that
    has not seen it.
    """
    base = dataset.between(config.first, config.base_last)
    later = dataset.between(config.base_last, config.last)[1:]
    valid = tuple(later[: config.valid_days]) if config.max_epochs > 1 else ()
    if config.max_epochs > 1 and len(valid) < config.valid_days:
        raise UserError(
            f"days.valid_days is {config.valid_days}, but only {len(later)} days follow"
            f" days.base_last {config.base_last}; move base_last back or set max_epochs=1",
            everywhere=True,
        )
    items: list[Item] = []
    for epoch in range(config.max_epochs):
        items += [Item("train", day, epoch) for day in base]
        if valid:
            items.append(Item("validate", base[-1], epoch))
    items.append(Item("settle", base[-1]))
    for day in later:
        items += [Item("score", day), Item("train", day), Item("keep", day)]
    return Work(tuple(items), valid)
