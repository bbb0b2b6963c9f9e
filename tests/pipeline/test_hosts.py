"""Two hosts made of network namespaces: an agent on each, and one result as of one host.

Namespaces of a user who maps himself to root need no privileges. The hosts have names, addresses
and nothing in common but a virtual cable and the disk.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from benchmarks.soak import differences, end_of
from tests.pipeline.jobs import ROOT, SECONDS, job, run_jobs
from tests.worlds import write_tiny

pytestmark = [pytest.mark.multiproc, pytest.mark.slow, pytest.mark.timeout(2 * SECONDS)]

CABLE = """
set -euo pipefail
printf '127.0.0.1 localhost\\n10.77.0.1 one\\n10.77.0.2 two\\n' > "$FOLDER/hosts"
mount --bind "$FOLDER/hosts" /etc/hosts
hostname one
unshare --net --uts sleep 3600 &
other=$!
trap 'kill $other' EXIT
while [ "$(readlink /proc/self/ns/net)" = "$(readlink /proc/$other/ns/net)" ]; do sleep 0.05; done
there="nsenter --target $other --net --uts"
$there hostname two
ip link add cable type veth peer name elbac netns $other
ip link set lo up
ip addr add 10.77.0.1/24 dev cable
ip link set cable up
$there ip link set lo up
$there ip addr add 10.77.0.2/24 dev elbac
$there ip link set elbac up
"""
AGENTS = """
agent="$PYTHON -m launch.ranks --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d \
  --rdzv-endpoint one:29400 --rdzv-id hosts -m launch.pretrain configs/pretrain/debug.yaml"
$there $agent "$@" 2> "$FOLDER/two.log" &
second=$!
status=0
$agent "$@" 2> "$FOLDER/one.log" || status=$?
wait $second || status=$?
ip -s -j link show cable > "$FOLDER/cable.json"
exit $status
"""
NAMESPACES = ["unshare", "--user", "--map-root-user", "--net", "--uts", "--mount"]


def on_two_hosts(script, folder, *words):
    """Run a script on host one of two, joined by a cable."""
    environment = {"FOLDER": str(folder), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*NAMESPACES, "bash", "-c", CABLE + script, "hosts", *words],
        cwd=ROOT,
        env=os.environ | environment | {"LFM4ADS_DEVICE": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for the runs, where this machine lets us make hosts."""
    folder = tmp_path_factory.mktemp("hosts")
    if not (shutil.which("ip") and shutil.which("unshare") and shutil.which("nsenter")):
        pytest.skip("ip, unshare or nsenter is not installed")
    tried = on_two_hosts("true", folder)
    if tried.returncode != 0:
        pytest.skip(f"this machine grants no network namespaces: {tried.stderr.strip()}")
    return folder


def test_two_hosts_leave_what_one_host_leaves(folder):
    write_tiny(folder / "data", days=3, rows=640, row_group_rows=64)
    days = {"first": 20260101, "base_last": 20260102, "last": 20260103}
    reader = {"batch_size": 32, "lanes": 2, "window_rows": 128}
    own = {"data": folder / "data", "days": days, "reader": reader}
    one_host = job("pretrain", **own, output=folder / "one host")
    two_hosts = job("pretrain", **own, output=folder / "two hosts")
    done = on_two_hosts(AGENTS, folder, *two_hosts.words)
    logs = [(folder / f"{name}.log").read_text() for name in ("one", "two")]
    assert done.returncode == 0, (done.stderr, *logs)
    assert "upstream" in logs[0], "rank 0 is on host one"
    assert "upstream" not in logs[1]
    (cable,) = json.loads((folder / "cable.json").read_text())
    for way in ("rx", "tx"):
        assert cable["stats64"][way]["bytes"] > 100_000, "the ranks met elsewhere"
    run_jobs(2, one_host)
    assert differences(end_of(folder, "one host"), end_of(folder, "two hosts")) == []
