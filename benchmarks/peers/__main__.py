"""The same DCNv2 and MMoE here, in plain TorchRec and in three peers: speed and AUC side by side.

python -m benchmarks.peers --json [--environments FOLDER] [--rounds 5] [--only dcnv2|mmoe]
python -m benchmarks.peers --scored valid --programs lfm4ads --rates 1e-3 0.1 --rounds 1  # to tune

26 categorical features of 100,000 ids (width 16) and 13 numbers, one epoch in batches of 4096 from
files, a process with equal threads; labels from a planted truth, so the AUC has a known ceiling.
Every program runs in an interpreter of its own (peers in environments that are made with pip where
they are missing), takes its turn in every round, and times its epoch with the reading; starting,
importing and building are not counted. Ratios are medians over rounds of this project's samples/s
over another's, and of another's CPU seconds (all threads and child processes) over this project's.
The last line printed is one JSON object.

Dimension key: N rows, S rounds (each of another seed), T tasks.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from benchmarks.peers.environments import PEERS, interpreter
from benchmarks.peers.meter import TASKS, Epoch, Job
from benchmarks.peers.world import write_world
from lfm4ads.metrics.paired import paired_lift

Floats = npt.NDArray[np.float64]
OURS, HALF, RAW = "lfm4ads", "lfm4ads, bfloat16", "TorchRec alone"
MODULES = {
    OURS: "ours",
    HALF: "ours",
    RAW: "raw_torchrec",
    "torch-rechub": "rechub",
    "FuxiCTR": "fuxi",
    "DeepCTR-Torch": "deepctr",
}
RATES = {
    OURS: {"dcnv2": (1e-3, 0.03), "mmoe": (1e-3, 0.05)},
    HALF: {"dcnv2": (1e-3, 0.03), "mmoe": (1e-3, 0.05)},
    RAW: {"dcnv2": (1e-3, 0.03), "mmoe": (1e-3, 0.05)},
    **{peer: {"dcnv2": (1e-3, 0.0), "mmoe": (1e-3, 0.0)} for peer in PEERS},
}
"""Learning rates of Adam, everybody's default, and of row-wise AdaGrad on the tables, which peers
do not have; --scored valid --rates tries others."""
NOTES = {
    "torch-rechub": {
        "dcnv2": "its DCNv2, stacked; its MLPs always normalise batches",
        "mmoe": "its MMOE; its MLPs, gates too, always normalise batches",
    },
    "FuxiCTR": {
        "dcnv2": "not in its wheel (there it reads sequences): put together of its layers",
        "mmoe": "not in its wheel: put together of its layers",
    },
    "DeepCTR-Torch": {
        "dcnv2": "its DCN with full matrices: cross layers and MLP side by side, not stacked",
        "mmoe": "its MMOE",
    },
}


@dataclass(frozen=True)
class Turn:
    """One run of one program."""

    epoch: Epoch
    scores_NT: Floats


def main() -> None:
    """Take turns and print the table, and with --json the object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the last line as JSON")
    parser.add_argument("--environments", type=Path, default=Path("out/peers"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=49 * 4096, help="rows of the epoch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=list(TASKS))
    parser.add_argument("--programs", nargs="*", choices=list(MODULES), default=list(MODULES))
    parser.add_argument("--scored", choices=("valid", "test"), default="test")
    rates = ("DENSE_LR", "TABLE_LR")
    parser.add_argument(
        "--rates", nargs=2, type=float, metavar=rates, help="by default each its own"
    )
    words = parser.parse_args()
    models = [words.only] if words.only else list(TASKS)
    pythons = {
        name: interpreter(name, folder=words.environments) if name in PEERS else sys.executable
        for name in words.programs
    }
    with tempfile.TemporaryDirectory() as folder:
        rows = {"train": words.rows, "valid": 100_000, "test": 100_000}
        truth = write_world(Path(folder), rows=rows, seed=0)
        found = {
            model: _compare(model, pythons, words=words, folder=Path(folder), truth=truth)
            for model in models
        }
    if words.json:
        settings = {name: getattr(words, name) for name in ("rows", "threads", "rounds", "scored")}
        ratios = {
            f"{model} {name}": value
            for model, one in found.items()
            for name, value in one["ratios"].items()
        }
        print(json.dumps({"settings": settings, "models": found, "ratios": ratios}))


def _compare(
    model: Any,
    pythons: dict[str, str],
    *,
    words: argparse.Namespace,
    folder: Path,
    truth: dict[str, Floats],
) -> dict[str, Any]:
    """Return what each program did on one model, and the ratios."""
    rates = {name: words.rates or RATES[name][model] for name in pythons}
    turns: dict[str, list[Turn]] = {name: [] for name in pythons}
    for seed in range(words.rounds):
        for name, python in pythons.items():
            job = Job(
                data=folder / "data",
                model=model,
                scored=words.scored,
                output=folder / "scores.npy",
                batch_size=4096,
                threads=words.threads,
                seed=seed,
                dense_lr=rates[name][0],
                table_lr=rates[name][1],
                precision="bfloat16" if name == HALF else "float32",
            )
            turns[name].append(_run(job, python, module=MODULES[name], rows=words.rows))
    labels_NT, true_NT = truth[words.scored], truth[f"{words.scored}_true"]
    tasks = TASKS[model]
    ceiling = {
        task: roc_auc_score(labels_NT[:, place], true_NT[:, place])
        for place, task in enumerate(tasks)
    }
    print(f"\n{model}; AUC of the truth itself: {_shown(ceiling)}; load {os.getloadavg()}")
    found = {
        name: _figures(turns[name], labels_NT, rows=words.rows, tasks=tasks) for name in pythons
    }
    for name, one in found.items():
        one["rates"] = list(rates[name])
        one["note"] = NOTES.get(name, {}).get(model, "")
        if OURS in turns and name != OURS:
            one["auc_lift_of_ours"] = _lifts(turns[OURS], turns[name], labels_NT, tasks=tasks)
        _print(name, one)
    ratios = {
        f"{mine} {of}": value
        for mine in (OURS, HALF)
        if mine in turns
        for of, value in _ratios(turns, mine=mine).items()
    }
    for words_of, ratio in ratios.items():
        print(f"  {words_of}: {ratio:.2f}")
    return {"ceiling": ceiling, "programs": found, "ratios": ratios}


def _run(job: Job, python: str, *, module: str, rows: int) -> Turn:
    root = str(Path(__file__).parents[2])
    environment = dict(os.environ, PYTHONPATH=root, OMP_NUM_THREADS=str(job.threads))
    done = subprocess.run(
        [python, "-m", f"benchmarks.peers.{module}", json.dumps(asdict(job), default=str)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{module} failed on {job.model}:\n{done.stderr[-2000:]}")
    epoch = Epoch(**json.loads(done.stdout.strip().splitlines()[-1]))
    rate, cpu = rows / epoch.seconds, 1e6 * epoch.cpu_seconds / rows
    line = f"{job.model} {module} seed {job.seed}: {rate:.0f} samples/s, {cpu:.0f} us of CPU each"
    print(line, file=sys.stderr, flush=True)
    return Turn(epoch, np.load(job.output))


def _figures(
    turns: list[Turn], labels_NT: Floats, *, rows: int, tasks: list[str]
) -> dict[str, Any]:
    aucs = {
        task: [float(roc_auc_score(labels_NT[:, at], turn.scores_NT[:, at])) for turn in turns]
        for at, task in enumerate(tasks)
    }
    return {
        "samples_per_second": rows / median(turn.epoch.seconds for turn in turns),
        "cpu_us_per_sample": 1e6 * median(turn.epoch.cpu_seconds for turn in turns) / rows,
        "peak_mib": median(turn.epoch.peak_bytes for turn in turns) / 2**20,
        "auc": {task: float(np.mean(some)) for task, some in aucs.items()},
        "rounds": [asdict(turn.epoch) for turn in turns],
        "auc_of_rounds": aucs,
    }


def _lifts(
    ours: list[Turn], theirs: list[Turn], labels_NT: Floats, *, tasks: list[str]
) -> dict[str, dict[str, float]]:
    """Return by how much our AUC is above theirs, with 95 % intervals over rows and seeds."""
    found: dict[str, dict[str, float]] = {}
    for at, task in enumerate(tasks):
        ours_SN, theirs_SN = (
            np.stack([turn.scores_NT[:, at] for turn in turns]) for turns in (ours, theirs)
        )
        lift = paired_lift(ours_SN, scores_b=theirs_SN, labels=labels_NT[:, at])
        assert lift is not None  # both classes have thousands of rows
        found[task] = {"mean": lift.delta_auc, "low": lift.low, "high": lift.high}
    return found


def _ratios(turns: dict[str, list[Turn]], *, mine: str) -> dict[str, float]:
    others = [name for name in turns if name not in (OURS, HALF)]
    found: dict[str, float] = {}
    for kind, attribute in (("samples/s", "seconds"), ("CPU time", "cpu_seconds")):
        costs = {
            name: [getattr(turn.epoch, attribute) for turn in some] for name, some in turns.items()
        }
        paired = {
            name: median(b / a for a, b in zip(costs[mine], costs[name], strict=True))
            for name in others
        }
        found |= {f"{kind} to {name}": value for name, value in paired.items()}
        peers = [name for name in others if name in PEERS]
        if peers:
            fastest = min(peers, key=lambda name: median(costs[name]))
            found[f"{kind} to the fastest peer ({fastest})"] = paired[fastest]
    return found


def _print(name: str, one: dict[str, Any]) -> None:
    print(
        f"  {name:15} {one['samples_per_second']:8.0f} samples/s"
        f" {one['cpu_us_per_sample']:6.0f} us CPU {one['peak_mib']:6.0f} MiB"
        f"  AUC {_shown(one['auc'])}  rates {one['rates']}  {one['note']}",
        flush=True,
    )


def _shown(aucs: dict[str, float]) -> str:
    return ", ".join(f"{task} {auc:.4f}" for task, auc in aucs.items())


if __name__ == "__main__":
    main()
