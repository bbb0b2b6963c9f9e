"""The days an upstream run works through, as a list that can be entered anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lfm4ads.core.errors import UserError
from lfm4ads.data.index import Dataset

Kind = Literal["train", "late", "validate", "settle", "score", "keep"]


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
    wait_days: dict[str, int] = field(default_factory=dict)
    """Task -> days its label may take, such as {conversion: 2}: the task is trained on a day's rows
    so many days later, with what had happened by then. A task not named is trained on the day
    itself, with what had happened by its end."""
    frozen: bool = False
    """Only score the days after the base: what a model is worth that does not go on learning."""

    def __post_init__(self) -> None:
        if not self.first <= self.base_last <= self.last:
            raise ValueError(
                "days must be first <= base_last <= last,"
                f" got {self.first}, {self.base_last}, {self.last}"
            )
        if self.max_epochs < 1 or self.valid_days < 1:
            raise ValueError("days.max_epochs and days.valid_days must be at least 1")
        for task, days in self.wait_days.items():
            if days < 1:
                raise ValueError(f"days.wait_days.{task} must be at least 1, got {days}")


@dataclass
class Position:
    """Where a run is; with weights and optimiser state, all that a restart needs."""

    index: int = 0
    """Work item."""
    step: int = 0
    """Steps done inside the item."""
    total_steps: int = 0
    best: float = -1.0
    best_epoch: int = -1
    figures: list[dict[str, Any]] = field(default_factory=list)
    """Figures so far, as rows of report.json."""
    gates: dict[str, dict[str, float]] = field(default_factory=dict)
    """How tasks weighed experts on the days scored last."""
    between: dict[str, list[float]] | None = None
    """What weighs the tasks against each other, where losses are not simply added."""


@dataclass(frozen=True)
class Item:
    """One piece of work; a position in a run is (index of the item, step inside it)."""

    kind: Kind
    day: int = 0
    epoch: int = 0
    tasks: tuple[str, ...] | None = None
    """What is trained; None: every task."""


@dataclass(frozen=True)
class Work:
    """All items of a run, in order."""

    items: tuple[Item, ...]
    base_days: tuple[int, ...]
    valid_days: tuple[int, ...] = ()

    def settle_at(self) -> int:
        """Return the index at which the base is settled, where early stopping jumps to."""
        return next(index for index, item in enumerate(self.items) if item.kind == "settle")

    def passes_since_kept(self, index: int) -> list[Item]:
        """Return the passes before ``index`` and after the checkpoint of a day before it.

        A pass that is repeated in later epochs is named once.
        """
        passes: list[Item] = []
        for item in self.items[:index]:
            if item.kind in ("settle", "keep"):
                passes = []
            elif item.kind in ("train", "late") and item.epoch == 0:
                passes.append(item)
        return passes


def plan_work(config: DaysConfig, dataset: Dataset) -> Work:
    """Return base epochs with validation, then each later day: score, train, keep a checkpoint.

    A day is scored before it is trained on, so the prequential figures are those of a model that
    has not seen it.
    """
    schema = dataset.schema
    tasks = tuple(schema.tasks)
    for task in config.wait_days:
        if task not in tasks or schema.tasks[task].kind != "time_to_event":
            waiting = [name for name, one in schema.tasks.items() if one.kind == "time_to_event"]
            raise UserError(
                f"days.wait_days names {task}; tasks whose label takes time are"
                f" {', '.join(waiting) or 'none'}",
                everywhere=True,
            )
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
        items += [_first(day, base, tasks, config, epoch=epoch) for day in base]
        if valid:
            items.append(Item("validate", base[-1], epoch))
    items.append(Item("settle", base[-1]))
    for day in later:
        items.append(Item("score", day))
        if not config.frozen:
            items.append(_first(day, (*base, *later[: later.index(day) + 1]), tasks, config))
            items += _late(day, (*base, *later), config)
            items.append(Item("keep", day))
    items = [item for item in items if item.tasks != ()]
    return Work(tuple(items), tuple(base), valid)


def _first(
    day: int, until: Sequence[int], tasks: Sequence[str], config: DaysConfig, *, epoch: int = 0
) -> Item:
    """Return the pass over a day with the tasks whose wait is over by the last day of ``until``."""
    place = until.index(day)
    due = [task for task in tasks if place + config.wait_days.get(task, 0) < len(until)]
    return Item("train", day, epoch, None if len(due) == len(tasks) else tuple(due))


def _late(day: int, days: Sequence[int], config: DaysConfig) -> list[Item]:
    """Return the passes over earlier days for the tasks whose wait ends with ``day``."""
    place = days.index(day)
    waits: dict[int, list[str]] = {}
    for task, wait in config.wait_days.items():
        waits.setdefault(wait, []).append(task)
    return [
        Item("late", days[place - wait], tasks=tuple(waits[wait]))
        for wait in sorted(waits, reverse=True)
        if place >= wait
    ]
