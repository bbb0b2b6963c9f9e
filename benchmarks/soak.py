"""Train under random faults and end where a calm run ends: ``python -m benchmarks.soak``.

``--minutes 30 --json`` runs a small pretrain on two ranks, shuffled and saving every few steps,
once in calm and then again and again under a supervisor. That kills ranks or the launcher, sends
them SIGTERM and tears checkpoint files at random moments, and starts the same command again, until
the run is done. Weights, optimiser state, figures and position of every checkpoint that stays must
equal the calm run's to the last bit: a row lost or read twice would move them. It exits with 1
otherwise. Two processes; the tear comes while nothing runs, as a disk fails.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from tests.pipeline.jobs import tensors_of
from tests.worlds import write_tiny

ROOT = Path(__file__).resolve().parents[1]
Kind = Literal[
    "kill rank",
    "kill launcher",
    "terminate rank",
    "terminate launcher",
    "truncate",
    "flip",
    "delete",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
TEARS: tuple[Kind, ...] = ("truncate", "flip", "delete")
END_SECONDS = 300
"""What a launcher that was told to stop may take, on a machine with much else to do."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One soak."""

    minutes: float
    seed: int = 0
    rows: int = 40_000
    """Of a day; there are four."""
    save_every_steps: int = 20
    pause_seconds: tuple[float, float] = (0.5, 25.0)
    """Between the first step of a start and the next fault, uniform."""
    kinds: tuple[Kind, ...] = KINDS


@dataclass
class Tally:
    """What was done to the runs, and what became of them."""

    injected: Counter[str] = field(default_factory=Counter[str])
    survived: Counter[str] = field(default_factory=Counter[str])
    starts: int = 0
    runs: int = 0
    skipped: int = 0
    """Checkpoints that a start said it would not use."""
    differences: list[str] = field(default_factory=list[str])


def words_of(root: Path, *, output: str, save_every_steps: int) -> list[str]:
    """Return the command line of the run."""
    days = "days={first: 20260101, base_last: 20260102, last: 20260104, max_epochs: 2}"
    reader = "reader={batch_size: 64, lanes: 4, window_rows: 256, shuffle: true}"
    saving = [f"save_every_steps={save_every_steps}", "save.asynchronous=true"]
    own = [f"data={root}/data", f"output={root}/{output}", *saving]
    return ["-m", "launch.pretrain", "configs/pretrain/debug.yaml", *own, days, reader]


def start(words: list[str], *, log: Path) -> subprocess.Popen[bytes]:
    """Start a stage on two ranks, as a user does; its output is added to ``log``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LFM4ADS_DEVICE": "cpu"}
    with log.open("ab") as sink:
        return subprocess.Popen(
            [sys.executable, "-m", "launch.ranks", "--nproc-per-node", "2", *words],
            cwd=ROOT,
            env=environment,
            stdout=sink,
            stderr=sink,
        )


def ranks_of(launcher: int) -> list[int]:
    """Return the process ids of a launcher's ranks."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    try:
        pids = [int(pid) for pid in children.read_text().split()]
        return [pid for pid in pids if b"launch." in Path(f"/proc/{pid}/cmdline").read_bytes()]
    except FileNotFoundError:
        return []


def tear(checkpoints: Path, *, kind: Kind, dice: random.Random) -> bool:
    """Damage a file of the newest checkpoint of mid-day; return False where there is none.

    Only where the one before it stands: a run whose every checkpoint is torn says so and ends.
    """
    newest = checkpoints / "last"
    if not (newest.is_dir() and (checkpoints / "previous").is_dir()):
        return False
    victim = dice.choice(sorted(path for path in newest.rglob("*") if path.is_file()))
    content = bytearray(victim.read_bytes())
    match kind:
        case "truncate":
            victim.write_bytes(content[: len(content) // 2])
        case "flip":
            at = dice.randrange(len(content))
            content[at] ^= 1 << dice.randrange(8)
            victim.write_bytes(content)
        case _:
            victim.unlink()
    return True


def strike(process: subprocess.Popen[bytes], *, kind: Kind, dice: random.Random) -> bool:
    """Send a signal to a rank or to the launcher; return whether it was there to get it."""
    ranks = ranks_of(process.pid)
    if not ranks or process.poll() is not None:
        return False
    number = signal.SIGTERM if kind.startswith("terminate") else signal.SIGKILL
    target = process.pid if kind.endswith("launcher") else dice.choice(ranks)
    try:
        os.kill(target, number)
    except ProcessLookupError:
        return False
    process.wait(END_SECONDS)
    wait_for_end(ranks)
    return True


def wait_for_end(pids: list[int]) -> None:
    """Wait until processes are gone: two jobs must not share a run folder."""
    patience = time.monotonic() + END_SECONDS
    while any(Path(f"/proc/{pid}/cmdline").is_file() and _lives(pid) for pid in pids):
        if time.monotonic() > patience:
            raise SystemExit(f"ranks {pids} outlived their launcher")
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until(done: Callable[[], bool], *, process: subprocess.Popen[bytes]) -> None:
    """Wait until something is so, or the process has ended."""
    while process.poll() is None and not done():
        time.sleep(0.05)


def has_trained(run: Path, *, log: Path, offset: int) -> bool:
    """Return whether a start has come so far that it holds its weights."""
    return run.is_dir() and b"upstream" in log.read_bytes()[offset:]


def end_of(root: Path, run: str) -> dict[str, Any]:
    """Return all that a finished run says of itself: report, positions, tensors."""
    folder = root / run
    report = json.loads((folder / "report.json").read_text())
    for name in ("seconds", "rows_per_second", "commit"):
        del report[name]
    found: dict[str, Any] = {"report": report}
    for checkpoint in sorted((folder / "checkpoints").glob("day=*")):
        found[f"{checkpoint.name} meta"] = json.loads((checkpoint / "meta.json").read_text())
        tensors = tensors_of(checkpoint, at=root / "whole.pt")
        found |= {f"{checkpoint.name}{name}": value for name, value in tensors.items()}
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of what is not the same, to the last bit, in two ends."""
    names = sorted(one.keys() | other.keys())
    return [name for name in names if not _same(one.get(name), other.get(name))]


def _same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and one == other


def run_under_faults(
    root: Path, settings: Settings, tally: Tally, *, dice: random.Random, until: float
) -> None:
    """Bring one run to its end, with a fault after a random while of every start until a time."""
    run, log = root / "run", root / "run.log"
    shutil.rmtree(run, ignore_errors=True)
    waiting: Counter[str] = Counter()
    words = words_of(root, output="run", save_every_steps=settings.save_every_steps)
    while not (run / "report.json").exists():
        offset = log.stat().st_size if log.exists() else 0
        process = start(words, log=log)
        tally.starts += 1
        wait_until(lambda at=offset: has_trained(run, log=log, offset=at), process=process)
        if process.poll() is None:
            # It came so far in spite of what was done before.
            said = log.read_text()[offset:].splitlines()
            skipped = sum("skipped" in line and "cut short" not in line for line in said)
            tally.skipped += skipped
            if any(waiting[kind] for kind in TEARS) and not skipped:
                raise SystemExit(f"a torn checkpoint was used: {said}")
            tally.survived += waiting
            waiting.clear()
            pause = dice.uniform(*settings.pause_seconds)
            struck = min(time.monotonic() + pause, until)
            wait_until(lambda at=struck: time.monotonic() > at, process=process)
        if process.poll() is None and time.monotonic() < until:
            kind = dice.choice(settings.kinds)
            tears = kind in TEARS
            if strike(process, kind="kill launcher" if tears else kind, dice=dice) and (
                not tears or tear(run / "checkpoints", kind=kind, dice=dice)
            ):
                waiting[kind] += 1
                tally.injected[kind] += 1
        elif process.wait() != 0:
            tail = log.read_text().splitlines()[-5:]
            raise SystemExit("a start without a fault failed: " + " / ".join(tail))
    tally.survived += waiting
    tally.runs += 1


def soak(settings: Settings, root: Path) -> dict[str, Any]:
    """Run it; return what is printed."""
    write_tiny(root / "data", days=4, rows=settings.rows, row_group_rows=512)
    began = time.monotonic()
    words = words_of(root, output="calm", save_every_steps=settings.save_every_steps)
    if start(words, log=root / "calm.log").wait() != 0:
        raise SystemExit((root / "calm.log").read_text())
    calm, calm_seconds = end_of(root, "calm"), time.monotonic() - began
    tally, dice = Tally(), random.Random(settings.seed)
    began = time.monotonic()
    until = began + 60 * settings.minutes
    while not tally.runs or time.monotonic() < until:
        run_under_faults(root, settings, tally, dice=dice, until=until)
        tally.differences += differences(calm, end_of(root, "run"))
    aucs = {
        f"{row['task']} {row['split']}": row["auc"]
        for row in calm["report"]["metrics"]
        if row["scenario"] == "all" and row["auc"] is not None
    }
    return {
        "minutes": (time.monotonic() - began) / 60,
        "calm_seconds": calm_seconds,
        "steps": calm["report"]["steps"],
        "runs": tally.runs,
        "starts": tally.starts,
        "injected": dict(sorted(tally.injected.items())),
        "survived": dict(sorted(tally.survived.items())),
        "checkpoints_skipped": tally.skipped,
        "calm_auc": aucs,
        "different": sorted(set(tally.differences)),
    }


def main() -> int:
    """Run a soak; return the exit status."""
    parser = argparse.ArgumentParser(description="Train under random faults.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--rows", type=int, default=Settings.rows, help="of each of four days")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(minutes=words.minutes, seed=words.seed, rows=words.rows)
        found = soak(settings, Path(folder).resolve())
    if words.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name}: {value}")
    return 1 if found["different"] or found["injected"] != found["survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
