"""Ranks that end well, badly and by force, as seen by whoever started them."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch.ranks import first_cause, threads_per_rank

ROOT = Path(__file__).resolve().parents[2]

STARTED = """
import os, signal, sys, time
rank = int(os.environ["RANK"])
words = [str(rank), os.environ["WORLD_SIZE"], os.environ["OMP_NUM_THREADS"], *sys.argv[1:]]
os.write(1, (" ".join(words) + "\\n").encode())
"""
MISTAKE = """
import os, sys, time
from dataclasses import dataclass
from lfm4ads.core.command import main
from lfm4ads.core.errors import UserError

@dataclass(frozen=True)
class Config:
    day: int

def run(config, ranks):
    with ranks.together():
        if ranks.rank == 1:
            raise UserError(f"there is no day {config.day}; name another")

class Late:
    def write(self, words):
        time.sleep(3)
        sys.__stderr__.write(words)

    def flush(self):
        sys.__stderr__.flush()

if os.environ["RANK"] == "0":
    time.sleep(1)
    sys.stderr = Late()
sys.exit(main(Config, run))
"""


def command(*words, ranks="2", options=()):
    return [sys.executable, "-m", "launch.ranks", *options, "--nproc-per-node", ranks, *words]


def environment(folder, **variables):
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return {**kept, "PYTHONPATH": f"{ROOT}:{folder}", **variables}


def launch(folder, body, *words, ranks="2", options=(), **variables):
    """Return (exit status, lines of stdout in some order, stderr) of a module on some ranks."""
    (folder / "body.py").write_text(body)
    done = subprocess.run(
        command("-m", "body", *words, ranks=ranks, options=options),
        cwd=ROOT,
        env=environment(folder, **variables),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, sorted(done.stdout.splitlines()), done.stderr


def test_ranks_that_end_well_are_all_there_is_to_hear(tmp_path):
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    lines = [f"{rank} 2 {threads} a.yaml steps=5" for rank in range(2)]
    assert launch(tmp_path, STARTED, "a.yaml", "steps=5") == (0, lines, "")


def test_threads_that_were_chosen_stay(tmp_path):
    done = launch(tmp_path, STARTED, ranks="1", OMP_NUM_THREADS="7")
    assert done == (0, ["0 1 7"], "")


@pytest.mark.multiproc
@pytest.mark.parametrize(
    ("words", "sentence"),
    [((), "there is no day 7; name another\n"), (("day=new",), "'new' of type 'str' could not be")],
)
def test_a_mistake_of_the_user_s_is_one_line_however_late(tmp_path, words, sentence):
    config = tmp_path / "config.yaml"
    config.write_text("day: 7\n")
    status, lines, errors = launch(tmp_path, MISTAKE, str(config), *words)
    assert (status, lines, errors.count("\n"), errors.count(sentence)) == (2, [], 1, 1), errors
    assert errors.startswith("error: ")


@pytest.mark.parametrize(
    ("end", "status", "sentence"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            1,
            "error: rank 1 was killed by SIGKILL; often the machine is out of memory\n",
        ),
        ("sys.exit(3)", 3, "error: rank 1 failed with exit code 3\n"),
    ],
)
def test_a_rank_that_is_gone_is_named_and_ends_the_others(tmp_path, end, status, sentence):
    body = f"{STARTED}\nif rank == 1:\n    {end}\ntime.sleep(90)\n"
    assert launch(tmp_path, body)[::2] == (status, sentence)


def test_a_launcher_that_is_stopped_stops_its_ranks(tmp_path):
    (tmp_path / "body.py").write_text(
        f"{STARTED}\nprint(os.getpid(), flush=True)\ntime.sleep(90)\n"
    )
    with subprocess.Popen(
        command("-m", "body", ranks="1"),
        cwd=ROOT,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        rank = int(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, "error: stopped by SIGTERM, and the ranks with it\n")
    with pytest.raises(ProcessLookupError):
        os.kill(rank, 0)


@pytest.mark.parametrize("processes", ["0", "-1", "many"])
def test_a_number_of_processes_that_is_none_is_refused(tmp_path, processes):
    status, lines, errors = launch(tmp_path, STARTED, ranks=processes)
    assert (status, lines, errors.count("\n")) == (2, [], 1)
    assert errors.startswith(f"error: --nproc-per-node {processes}: ")


def test_ranks_that_cannot_meet_say_where(tmp_path):
    meeting = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--rdzv-conf=join_timeout=1"]
    status, lines, errors = launch(tmp_path, STARTED, options=["--nnodes=2", *meeting])
    assert (status, lines, errors.count("\n")) == (1, [], 1)
    assert errors.startswith("error: the ranks could not meet at localhost:0 (")


def test_threads_are_never_none():
    assert threads_per_rank("100000") == 1


@pytest.mark.parametrize(
    ("codes_and_seconds", "cause"),
    [
        ({0: (1, 0), 1: (-9, 0)}, (1, -9)),
        ({0: (1, 0), 1: (-9, 30)}, (0, 1)),
        ({0: (-15, 1), 1: (1, 0)}, (1, 1)),
        ({0: (1, 0), 1: (2, 1)}, (1, 2)),
        ({3: (-15, 0)}, (3, -15)),
        ({2: (5, 0), 1: (1, 0)}, (2, 5)),
    ],
)
def test_the_cause_comes_before_what_follows_from_it(codes_and_seconds, cause):
    failures = {
        rank: SimpleNamespace(exitcode=code, timestamp=1_700_000_000 + seconds)
        for rank, (code, seconds) in codes_and_seconds.items()
    }
    assert first_cause(failures) == cause
