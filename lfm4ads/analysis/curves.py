"""Training curves out of ``metrics.jsonl``: whatever figures a stage chose to log."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lfm4ads.core.errors import UserError

_DAY = re.compile(r"(?:day=?)?\b(20\d{6})\b")
_FIRST = ("loss", "auc", "entropy", "calibration")
"""Figures whose name holds one of these are shown before others, in this order."""
MAX_POINTS = 300
_Point = tuple[str, float, float, str]
"""Day, step, value, unit."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One logged figure of one run over steps, or over days where the log names them."""

    run: str
    arm: str
    name: str
    split: str
    unit: str
    days: tuple[str, ...]
    """YYYYMMDD of each point; empty when the figure is over steps."""
    over: Literal["step", "epoch"]
    """What ``x`` counts; the days of an epoch are spread evenly over it."""
    x: tuple[float, ...]
    """Step or epoch of each point."""
    y: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as a row of ``training`` in ``report.json``."""
        return asdict(self)

    @property
    def title(self) -> str:
        """What the picture of this figure is called."""
        return f"{self.name} ({self.split})" if self.split else self.name

    @property
    def is_detail(self) -> bool:
        """Whether it is a figure of one scenario, as in ``auc/click/3``."""
        return self.name.rsplit("/", 1)[-1].isdigit()

    @property
    def rank(self) -> tuple[int, str, str, bool]:
        """Where the figure stands on the page: loss and AUC first."""
        first = next((place for place, word in enumerate(_FIRST) if word in self.name), len(_FIRST))
        return first, self.name, self.split, bool(self.days)


def load_curves(path: Path, *, run: str, arm: str) -> list[Curve]:
    """Read every figure with at least two defined points, loss and AUC first."""
    found: dict[tuple[str, str], list[_Point]] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = _parse(text, where=f"{path} line {number}")
        value = line.get("value")
        if isinstance(value, int | float) and math.isfinite(value):
            name, split, day = _place(line)
            step, unit = float(line.get("step") or 0), str(line.get("unit") or "")
            found.setdefault((name, split), []).append((day, step, float(value), unit))
    curves = []
    for (name, split), points in found.items():
        # A day may also name a part of an epoch, whose number is the step: those go over steps.
        num_days, num_steps = len({day for day, *_ in points if day}), len({p[1] for p in points})
        by_day = num_days == len(points) and num_steps > 1
        kept = sorted(points) if by_day else _thin(_spread(points))
        if len(kept) > 1:
            days, x, y, units = zip(*kept, strict=True)
            place = {"run": run, "arm": arm, "name": name, "split": split, "unit": units[0]}
            over = "epoch" if num_steps < len(points) and num_days > 1 else "step"
            shown = {"days": days if by_day else (), "over": over, "x": x, "y": y}
            curves.append(Curve(**place, **shown))
    return sorted(curves, key=lambda curve: curve.rank)


def _parse(text: str, *, where: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where} is not valid JSON ({error}); delete that line or rerun its stage"
        ) from error
    if not isinstance(line, dict) or "name" not in line:
        raise UserError(f"{where} has no field name; delete that line or rerun its stage")
    return line


def _place(line: dict[str, Any]) -> tuple[str, str, str]:
    """Return name, split and day ("" if none), which is a field or part of name or split."""
    name, split = str(line["name"]), str(line.get("split") or "")
    day = str(line.get("day") or "")
    for text in (split, name):
        match = _DAY.search(text)
        day = day or (match.group(1) if match else "")
    return _DAY.sub("", name).strip("/_ .=:"), _DAY.sub("", split).strip("/_ .=:"), day


def _spread(points: Sequence[_Point]) -> list[_Point]:
    """Give figures of one step, as those of the days of an epoch, evenly spaced places after it."""
    totals = Counter(step for _, step, _, _ in points)
    seen: Counter[float] = Counter()
    spread: list[_Point] = []
    for day, step, value, unit in points:
        spread.append((day, step + seen[step] / totals[step], value, unit))
        seen[step] += 1
    return spread


def _thin(points: Sequence[_Point]) -> list[_Point]:
    """Average neighbours until ``MAX_POINTS`` remain: a page is no place for a million points."""
    if len(points) <= MAX_POINTS:
        return list(points)
    blocks = np.array_split(np.array([(step, value) for _, step, value, _ in points]), MAX_POINTS)
    return [("", float(b[:, 0].mean()), float(b[:, 1].mean()), points[0][3]) for b in blocks]
