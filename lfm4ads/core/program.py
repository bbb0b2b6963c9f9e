"""A stage as a program of its own: its words, its log, and what it said when it failed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import write_text
from lfm4ads.core.log import log

_OF_A_JOB = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_ALONE = ("prepare", "plan", "report", "comparable")
"""Stages of one process."""
_NOTHING_LEFT = "already holds every arm and seed"
"""What a stage that resumes by itself says when it has nothing to do."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """``python -m launch.<stage> <config> <words>``, run until it once ended well."""

    name: str
    """How messages call it."""
    stage: str
    config: Path
    words: tuple[str, ...]
    ranks: int = 1
    kind: Literal["step", "run", "arms"]
    """What says that it is done. ``step``: its mark. ``run``: the report in its output. ``arms``:
    its mark, and every report it left; other words are for the stage itself to refuse, which knows
    arm by arm what it has."""
    mark: Path
    """File of the command and the config that made the result."""
    log: Path
    """File of what the program says."""
    output: Path = Path()
    """What the stage writes: a run, or for ``arms`` ``<arm>/seed-<n>`` folders."""
    seed: int = 0

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the interpreter is called with."""
        start = ["-m", f"launch.{self.stage}"]
        if self.ranks > 1 and self.stage not in _ALONE:
            start = ["-m", "launch.ranks", "--nproc-per-node", str(self.ranks), *start]
        return (*start, str(self.config), *self.words)

    @property
    def told(self) -> str:
        """The command and the text of its config: what the result depends on."""
        text = self.config.read_text(encoding="utf-8") if self.config.exists() else ""
        return f"{' '.join(self.arguments)}\n\n{text}"

    def is_done(self) -> bool:
        """Whether it need not run; refuse what other words or another config left."""
        marked = self.mark.read_text(encoding="utf-8") if self.mark.exists() else ""
        if self.kind == "arms":
            told, _, reports = marked.rpartition("\n\n")
            return told == self.told and all(Path(path).exists() for path in reports.splitlines())
        if marked and marked != self.told:
            what, rest = (
                (self.output, "that folder")
                if self.kind == "run"
                else (self.mark, "that file and what the step wrote")
            )
            raise UserError(
                f"{what} holds a run of other words or another config; choose another output or"
                f" remove {rest}"
            )
        return bool(marked) if self.kind == "step" else (self.output / "report.json").exists()

    def run(self, *, threads: int = 0) -> str:
        """Run it with its output in ``log``; return what went wrong, or nothing.

        Args:
            threads: of a process, where the environment does not say; 0: as the stage likes.
        """
        started = time.monotonic()
        if self.kind == "run":
            self._write_mark()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w", encoding="utf-8") as file:
            code = subprocess.run(
                [sys.executable, *self.arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=_environment(threads),
                check=False,
            ).returncode
        if code:
            said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = said[-1] if said else "it said nothing"
            if code < 0:
                last = f"killed by {signal.Signals(-code).name}"
            if self.kind != "arms" or _NOTHING_LEFT not in last:
                return f"{self.name} ({last.removeprefix('error: ')}, see {self.log})"
        if self.kind != "run":
            self._write_mark()
        log.info("%s: done in %.0f s", self.name, time.monotonic() - started)
        return ""

    def _write_mark(self) -> None:
        told = self.told
        if self.kind == "arms":
            reports = sorted(self.output.glob(f"*/seed-{self.seed}/report.json"))
            told += "\n\n" + "\n".join(str(path) for path in reports)
        write_text(self.mark, told)


def run_steps(steps: Sequence[Program]) -> None:
    """Run the steps that are not done, one after the other."""
    missing = [step for step in steps if not step.is_done()]
    for step in missing:
        log.info("%s: running, see %s", step.name, step.log)
        failed = step.run()
        if failed:
            raise UserError(f"{failed} failed; mend that and run the same command")


def run_beside(programs: Sequence[Program], *, parallel: int) -> None:
    """Run the programs that are not done, ``parallel`` at a time; failures are told together."""
    missing = [program for program in programs if not program.is_done()]
    log.info("%d runs, %d of them to do, %d at a time", len(programs), len(missing), parallel)

    def run(program: Program) -> str:
        return program.run(threads=1)  # runs side by side share the cores

    with ThreadPoolExecutor(parallel) as pool:
        failed = [words for words in pool.map(run, missing) if words]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(missing)} runs failed: {'; '.join(failed)}; mend that and run"
            " the same command, which goes on with what is missing"
        )


def _environment(threads: int) -> dict[str, str]:
    """Return this process's environment without what makes it a rank of a job."""
    environment = ({"OMP_NUM_THREADS": str(threads)} if threads else {}) | dict(os.environ)
    for name in list(environment):
        if name in _OF_A_JOB or name.startswith("TORCHELASTIC_"):
            del environment[name]
    return environment
