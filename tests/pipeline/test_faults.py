"""Whatever befalls a pretrain, it ends with a sentence, and the same command ends as a calm run."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.soak import differences, end_of, ranks_of
from lfm4ads.train.daily import Daily
from tests.gloo import run_ranks
from tests.pipeline.jobs import ROOT, SECONDS, do, job, run_jobs
from tests.worlds import write_tiny

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(2 * SECONDS)]

TORCHRUN = ("torch.distributed.run", "--standalone")
OURS = ("launch.ranks",)
SLEEPER = """
import sys, time
import numpy as np
from lfm4ads.core.command import main
from tests.unit.core.test_command import Config

def run(config, ranks):
    for step in range(4):
        ranks.at(f"step {step}")
        if step == 2 and ranks.rank == 1:
            time.sleep(1000)
        ranks.sum(np.ones(1))

sys.exit(main(Config, run))
"""


def pretrain(root, name, **words):
    """A run of 60 steps, shuffled, saved in mid-day at every fourth."""
    own = {
        "data": root / "data",
        "output": root / name,
        "days": {"first": 20260101, "base_last": 20260102, "last": 20260103},
        "reader": {"batch_size": 32, "lanes": 2, "window_rows": 128},
        "save_every_steps": 4,
    }
    return job("pretrain", **(own | words))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A dataset and the run that nothing befell."""
    folder = tmp_path_factory.mktemp("faults")
    write_tiny(folder / "data", days=3, rows=640, row_group_rows=64)
    run_jobs(2, pretrain(folder, "calm"))
    return folder


@pytest.fixture(scope="module")
def calm(root):
    return end_of(root, "calm")


@contextmanager
def launched(one, launcher, *options, seconds="600"):
    """Start a job on two ranks; whatever is left of it at the end is killed."""
    words = ["-m", f"launch.{one.stage}", f"configs/{one.stage}/debug.yaml", *one.words]
    environment = {"OMP_NUM_THREADS": "1", "LFM4ADS_DEVICE": "cpu"}
    environment |= {"LFM4ADS_TIMEOUT_SECONDS": seconds}
    with subprocess.Popen(
        [sys.executable, "-m", *launcher, "--nproc-per-node", "2", *options, *words],
        cwd=ROOT,
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def wait_for(process, path):
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "launcher"), [("torchrun", TORCHRUN), ("ours", OURS)])
def test_a_killed_rank_is_started_again_and_nothing_is_lost(root, calm, name, launcher):
    one = pretrain(root, name)
    with launched(one, launcher, "--max-restarts", "2") as process:
        wait_for(process, root / name / "checkpoints" / "last")
        time.sleep(random.random())
        os.kill(random.choice(ranks_of(process.pid)), signal.SIGKILL)
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    assert "resumed from" in errors
    assert differences(calm, end_of(root, name)) == []


@pytest.mark.slow
def test_ranks_go_when_their_launcher_is_killed(root, calm):
    with launched(pretrain(root, "orphans"), OURS) as process:
        wait_for(process, root / "orphans" / "checkpoints" / "last")
        pids = ranks_of(process.pid)
        process.kill()
        process.communicate(timeout=SECONDS)
        assert len(pids) == 2
        for pid in pids:
            deadline = time.monotonic() + 10
            while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            assert not Path(f"/proc/{pid}/cmdline").exists()
    run_jobs(2, pretrain(root, "orphans"))
    assert differences(calm, end_of(root, "orphans")) == []


@pytest.mark.slow
def test_a_rank_that_is_told_to_stop_stops_all(root, calm):
    with launched(pretrain(root, "one told"), OURS) as process:
        wait_for(process, root / "one told" / "checkpoints" / "last")
        os.kill(ranks_of(process.pid)[1], signal.SIGTERM)
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 143, errors
    (said,) = (line for line in errors.splitlines() if "error: " in line)
    assert said.startswith("error: stopped by a signal at step")
    assert said.endswith("which is saved; run the same command to go on")
    run_jobs(2, pretrain(root, "one told"))
    assert differences(calm, end_of(root, "one told")) == []


@pytest.mark.slow
def test_a_mistake_is_tried_as_often_as_torchrun_is_told_and_no_more(root):
    """A launcher cannot know that a mistake stays one; three starts are not for ever."""
    wrong = pretrain(root, "wrong", data=root / "nowhere")
    with launched(wrong, OURS, "--max-restarts", "1") as process:
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 2, errors
    lines = [line for line in errors.splitlines() if "nowhere/schema.yaml does not" in line]
    assert len(lines) == 2, errors


@pytest.mark.slow
def test_a_rank_that_sleeps_is_named_with_what_it_does(tmp_path):
    """Twice: what the first start has left in torchrun's store must not end the second."""
    options = ["--nproc-per-node", "3", "--max-restarts", "1"]
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    (tmp_path / "tiny.yaml").write_text("")
    environment = {"PYTHONPATH": str(ROOT), "LFM4ADS_DEVICE": "cpu", "LFM4ADS_TIMEOUT_SECONDS": "2"}
    done = subprocess.run(
        [sys.executable, "-m", *OURS, *options, "sleeper.py", "tiny.yaml"],
        cwd=tmp_path,
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 75, done.stderr
    first, second = done.stderr.splitlines()
    for said in (first, second):
        assert said.startswith("error: rank 1 did not arrive within 2 s where ranks 0, 2 wait: all")
        assert "step 2; rank 1 is in run" in said


@pytest.mark.slow
def test_a_rank_that_is_frozen_is_named(root):
    with launched(pretrain(root, "frozen"), OURS, seconds="4") as process:
        wait_for(process, root / "frozen" / "checkpoints" / "last")
        frozen = ranks_of(process.pid)[1]
        os.kill(frozen, signal.SIGSTOP)
        said = ""
        while "error: " not in said:
            said = process.stderr.readline()
            assert said, "it ended without a word"
        os.kill(frozen, signal.SIGKILL)
        process.communicate(timeout=SECONDS)
    assert said.startswith("error: rank 1 did not arrive within 4 s where rank 0 waits: ")
    assert "rank 1 gives no answer" in said


def do_with_a_full_disk(ranks, one, number):
    """Run a job of which rank 1 can write no more than 100 bytes a file at its nth save."""
    save, saves = Daily._save, []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_on_a_full_disk(self, name, *, day):
        saves.append(name)
        full = len(saves) == number and ranks.rank == 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 if full else soft, hard))
        save(self, name, day=day)

    Daily._save = save_on_a_full_disk
    try:
        return do(ranks, [one])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_ends_all_ranks_and_leaves_the_former_checkpoint(root, calm):
    one = pretrain(root, "full disk")
    (first,), (second,) = run_ranks(do_with_a_full_disk, 2, one, 3, seconds=SECONDS)
    assert first == second
    sentence, everywhere = first
    assert everywhere
    assert "checkpoints" in sentence
    assert "File too large" in sentence or "disk" in sentence, sentence
    assert "\n" not in sentence
    assert not (root / "full disk" / "report.json").exists()
    run_jobs(2, one)
    assert differences(calm, end_of(root, "full disk")) == []


def tear(path):
    """Overwrite the pages of row group 2; the footer and all other groups stay whole."""
    meta = pq.read_metadata(path).row_group(2)
    starts = [meta.column(i).data_page_offset for i in range(meta.num_columns)]
    content = bytearray(path.read_bytes())
    begin = min(starts) + 16
    content[begin : begin + 400] = bytes(400)
    path.write_bytes(content)


def put_nan(path):
    """Write the file again with one NaN in a vector of row group 2."""
    table = pq.read_table(path)
    rows = pq.read_metadata(path).row_group(0).num_rows
    place = table.schema.get_field_index("picture")
    pictures = table.column(place).to_pylist()
    pictures[2 * rows + 1][3] = float("nan")
    field = table.schema.field(place)
    table = table.set_column(place, field, pa.array(pictures, field.type))
    pq.write_table(table, path, row_group_size=rows)


@pytest.mark.parametrize(
    ("damage", "said", "remedy"),
    [
        (tear, "cannot be read (", "write the file again with 'make prepare'"),
        (put_nan, "column picture has a NaN or infinite component; ", "write finite vectors"),
    ],
)
def test_a_fault_in_the_middle_of_a_day_is_named_and_once_mended_the_run_goes_on(
    root, calm, damage, said, remedy
):
    data, name = root / f"data {damage.__name__}", damage.__name__
    shutil.copytree(root / "data", data)
    file = data / "day=20260102" / "part-00001.parquet"
    assert pq.read_metadata(file).num_row_groups > 3
    damage(file)
    one = pretrain(root, name, data=data)
    (first,), (second,) = run_ranks(do, 2, [one], seconds=SECONDS)
    assert first == second
    sentence, everywhere = first
    assert everywhere
    assert sentence.startswith(f"{file}, row group 2: {said}")
    assert sentence.endswith(remedy)
    assert (root / name / "checkpoints" / "last").exists()
    shutil.copyfile(root / "data" / "day=20260102" / "part-00001.parquet", file)
    run_jobs(2, one)
    mine = end_of(root, name)
    assert mine["report"].pop("dataset") != calm["report"]["dataset"]
    assert differences(calm, mine) == ["report"]  # which names its dataset
    assert {**calm["report"], **mine["report"]} == calm["report"]
