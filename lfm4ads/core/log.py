"""Plain logs from rank 0, and figures: ``metrics.jsonl``, one a line, and for TensorBoard."""

import json
import logging
import math
import re
import sys
import warnings
from pathlib import Path
from typing import Any

from lfm4ads.core.events import EventFile
from lfm4ads.core.files import write_text
from lfm4ads.core.ranks import Ranks

log = logging.getLogger("lfm4ads")

# How TorchRec 1.8 and DCP use torch 2.13. Every rank would say so at every start, and no user can
# mend it: TorchRec passes DDP a renamed argument, and its tables save as ShardedTensor.
_LIBRARY_WARNINGS = (
    ("`broadcast_buffers` is deprecated", r"torchrec\."),
    ("Please use DTensor instead and we are deprecating ShardedTensor", r"torch\.distributed\."),
)


def open_log(ranks: Ranks) -> None:
    """Send this program's log to stderr on rank 0 and keep the other ranks to warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.INFO if ranks.is_first else logging.WARNING)
    for noisy in ("torchrec", "torch.fx", "torch.distributed"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    for message, module in _LIBRARY_WARNINGS:
        warnings.filterwarnings("ignore", message, FutureWarning, module)


_DAY = re.compile(r":(20\d{6})$")


class MetricsLog:
    """Appends figures to ``metrics.jsonl`` on rank 0; a no-op on the others.

    The same figures go to an event file in ``tensorboard`` beside it, as ``<split>/<name>``.
    """

    def __init__(self, path: Path, *, ranks: Ranks, keep_steps: int = 0) -> None:
        """Open the file; of a former attempt, lines up to step ``keep_steps`` stay.

        What they say is not written again: a run killed after it scored a day, before its next
        checkpoint, scores that day once more at the same step.
        """
        self._path = path if ranks.is_first else None
        self._known: set[tuple[int, str, str]] = set()
        self._tags: set[tuple[str, int]] = set()
        if self._path is None:
            return
        text = self._path.read_text() if self._path.exists() and keep_steps else ""
        # A full disk can tear the last line; only a whole one ends with a newline.
        whole = text[: text.rfind("\n") + 1].splitlines()
        kept = [line for line in map(json.loads, whole) if line["step"] <= keep_steps]
        self._known = {(line["step"], line["split"], line["name"]) for line in kept}
        write_text(self._path, "".join(f"{json.dumps(line)}\n" for line in kept))
        self._events = EventFile(path.parent / "tensorboard")
        self._events.scalars([self._scalar(line) for line in kept])

    def values(self, name: str) -> list[float]:
        """Return the defined figures of a name, oldest first; none on ranks other than 0."""
        if self._path is None or not self._path.exists():
            return []
        lines = map(json.loads, self._path.read_text(encoding="utf-8").splitlines())
        return [
            line["value"] for line in lines if line["name"] == name and line["value"] is not None
        ]

    def write(
        self, name: str, value: float | None, *, step: int, split: str, unit: str = ""
    ) -> None:
        """Add one figure; undefined figures (None, NaN) are written as null."""
        if self._path is None or (step, split, name) in self._known:
            return
        finite = value if value is not None and math.isfinite(value) else None
        line = {"step": step, "split": split, "name": name, "value": finite, "unit": unit}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._events.scalars([self._scalar(line)])

    def _scalar(self, line: dict[str, Any]) -> tuple[str, int, float | None]:
        """Return tag, step and value of a line.

        A day is left out of the tag, so that the figures of days make a line; where two days share
        a step, as the days of one epoch do, the later ones keep theirs.
        """
        split, step = line["split"], line["step"]
        tag = f"{_DAY.sub('', split)}/{line['name']}"
        if (tag, step) in self._tags:
            tag = f"{split}/{line['name']}"
        self._tags.add((tag, step))
        return tag, step, line["value"]
