"""The Slurm script against stubs of Slurm's commands; the Kubernetes job's command on this host."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import yaml

from tests.pipeline.jobs import ROOT, SECONDS
from tests.worlds import write_tiny

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(2 * SECONDS)]

STUBS = {
    "srun": """
while [[ $1 == --* ]]; do echo "srun $1" >> "$STUBS/said"; shift; done
echo $$ > "$STUBS/step.pid"
exec "$@"
""",
    "scontrol": """
echo "scontrol $*" >> "$STUBS/said"
[[ $1 != show ]] || printf 'localhost\\nsecond\\n'
""",
    "scancel": """
echo "scancel $*" >> "$STUBS/said"
kill -TERM "$(cat "$STUBS/step.pid")"
""",
    "sbatch": """
echo "sbatch $*" >> "$STUBS/said"
echo "$(wc -l < "$STUBS/said");cluster"
""",
}
WORDS = [
    "days={first: 20260101, base_last: 20260102, last: 20260103}",
    "reader={batch_size: 32, lanes: 2, window_rows: 128}",
]


@pytest.fixture
def slurm(tmp_path):
    """The environment of a batch job of one node, and a dataset beside the stubs."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name, body in STUBS.items():
        (stubs / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (stubs / name).chmod(0o755)
    write_tiny(tmp_path / "data", days=3, rows=640, row_group_rows=64)
    own = {
        "PATH": f"{stubs}:{os.environ['PATH']}",
        "STUBS": str(stubs),
        "PYTHON": sys.executable,
        "RANKS": "2",
        "PORT": str(free_port()),
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "localhost,second",
        "SLURM_JOB_NUM_NODES": "1",
        "OMP_NUM_THREADS": "1",
        "LFM4ADS_DEVICE": "cpu",
    }
    return os.environ | own


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def batch(slurm, *words):
    script = ROOT / "launch" / "slurm" / "stage.sbatch"
    return subprocess.Popen(
        ["bash", script, *words], cwd=ROOT, env=slurm, stderr=subprocess.PIPE, text=True
    )


def test_scripts_are_bash():
    for script in sorted((ROOT / "launch").rglob("*.s[hb]*")):
        subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.slow
def test_a_job_that_slurm_stops_is_queued_again_and_goes_on(slurm, tmp_path):
    run = tmp_path / "run"
    words = [f"data={tmp_path / 'data'}", f"output={run}", "save_every_steps=4", *WORDS]
    one = ["pretrain", "configs/pretrain/debug.yaml", *words]
    process = batch(slurm, *one)
    deadline = time.monotonic() + SECONDS
    while not (run / "checkpoints" / "last").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode not in (0, 2), errors
    assert "stopped by a signal at step" in errors
    assert errors.endswith("back into the queue, where the same command goes on\n")
    said = (tmp_path / "stubs" / "said").read_text().splitlines()
    assert said[-2:] == ["scancel --signal=TERM 77", "scontrol requeue 77"]
    assert "scontrol show hostnames localhost,second" in said
    assert not (run / "report.json").exists()

    again = batch(slurm | {"SLURM_RESTART_COUNT": "1"}, *one)
    _, errors = again.communicate(timeout=SECONDS)
    assert again.returncode == 0, errors
    assert "resumed from" in errors
    assert (run / "report.json").exists()
    assert "requeue" not in (tmp_path / "stubs" / "said").read_text().split("requeue 77")[1]


def test_a_job_without_words_says_what_it_needs(slurm):
    process = batch(slurm)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert errors.startswith("error: say a stage and its config")


def test_the_chain_waits_stage_for_stage(slurm, tmp_path):
    script = ROOT / "launch" / "slurm" / "pipeline.sh"
    environment = slurm | {"OUT": "/shared/run"}
    subprocess.run(["bash", script, "adsworld", "--nodes", "4"], env=environment, check=True)
    lines = (tmp_path / "stubs" / "said").read_text().splitlines()
    assert len(lines) == 3
    assert "dependency" not in lines[0]
    for line, stage, before in zip(
        lines, ("pretrain", "dump", "transfer"), ("", "1", "2"), strict=True
    ):
        assert f"--nodes 4 launch/slurm/stage.sbatch {stage} configs/{stage}/adsworld.yaml" in line
        assert f"--dependency=afterok:{before} " in line or not before
        assert (ROOT / "configs" / stage / "adsworld.yaml").exists()


@pytest.mark.slow
def test_the_command_of_the_kubernetes_job_runs(tmp_path):
    """With one node and two ranks, this interpreter and folders of this machine."""
    text = (ROOT / "launch" / "kubernetes" / "pretrain.yaml").read_text()
    job = yaml.safe_load(text)
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    (container,) = worker["template"]["spec"]["containers"]
    command = container["command"]
    name, replicas = job["metadata"]["name"], worker["replicas"]
    assert f"--nnodes={replicas}" in command
    assert f"--nproc-per-node={container['resources']['limits']['nvidia.com/gpu']}" in command
    (port,) = (one["containerPort"] for one in container["ports"])
    assert f"--rdzv-endpoint={name}-worker-0:{port}" in command
    mounts = {one["name"] for one in container["volumeMounts"]}
    assert mounts == {one["name"] for one in worker["template"]["spec"]["volumes"]}
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"WORKDIR {container['workingDir']}" in dockerfile
    assert command[0].removesuffix("/bin/python") in dockerfile

    write_tiny(tmp_path / "data", days=3, rows=640, row_group_rows=64)
    changed = {
        "/opt/venv/bin/python": sys.executable,
        f"--nnodes={replicas}": "--nnodes=1",
        "--nproc-per-node=8": "--nproc-per-node=2",
        f"--rdzv-endpoint={name}-worker-0:{port}": f"--rdzv-endpoint=localhost:{free_port()}",
        "configs/pretrain/adsworld.yaml": "configs/pretrain/debug.yaml",
        "data=/shared/data": f"data={tmp_path / 'data'}",
        "output=/shared/pretrain": f"output={tmp_path / 'run'}",
    }
    assert set(changed) <= set(command)
    own = {one["name"]: one["value"] for one in container["env"]}
    own |= {"OMP_NUM_THREADS": "1", "LFM4ADS_DEVICE": "cpu"}
    done = subprocess.run(
        [*(changed.get(word, word) for word in command), *WORDS],
        cwd=ROOT,
        env=os.environ | own,
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.json").exists()
