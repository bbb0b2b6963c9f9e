"""The locks are whole, two builds of FBGEMM never meet, a mistake in ``make`` gets a sentence."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from launch.check_install import (
    InstallError,
    canonical,
    installed_packages,
    read_lock,
    refuse_other_versions,
    refuse_two_fbgemms,
)

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*words: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        words, cwd=folder, env=keep | environment, capture_output=True, text=True, check=False
    )


def fake_package(folder: Path, *, name: str, version: str) -> None:
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def script(path: Path, *, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# The locks


def test_each_accelerator_has_its_own_fbgemm_and_the_same_rest():
    cpu, gpu = read_lock(LOCKS / "cpu.lock"), read_lock(LOCKS / "gpu.lock")
    assert {name for name in cpu if "fbgemm" in name} == {"fbgemm-gpu-cpu"}
    assert {name for name in gpu if "fbgemm" in name} == {"fbgemm-gpu"}
    assert {name for name in cpu if cpu[name] != gpu.get(name)} == {"fbgemm-gpu-cpu"}


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_lock_satisfies_the_project(name):
    pins = read_lock(LOCKS / f"{name}.lock") | read_lock(LOCKS / "dev.lock")
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *extras[name], *extras["dev"]]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(pins[canonical(wanted.name)]), text


def test_lock_holds_what_its_packages_require():
    pins = read_lock(LOCKS / "cpu.lock") | read_lock(LOCKS / "dev.lock")
    missing, seen = set(), set()
    for name in pins:
        try:
            texts = requires(name) or []
        except PackageNotFoundError:
            continue
        seen.add(name)
        wanted = [Requirement(text) for text in texts]
        plain = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
        missing |= {canonical(one.name) for one in plain} - set(pins)
    assert {"torch", "torchrec", "pytest"} <= seen
    assert missing == {"fbgemm-gpu"}  # torchrec asks for the CUDA build; fbgemm-gpu-cpu serves


@pytest.mark.parametrize(
    "line", ["numpy", "numpy>=2", "numpy==2.*", "git+ssh://host/numpy", "-e ."]
)
def test_lock_refuses_a_line_that_pins_nothing(tmp_path, line):
    (tmp_path / "some.lock").write_text(f"tqdm==4.70.1\n{line}\n")
    with pytest.raises(InstallError, match=r"some\.lock:2 .* pins name==version"):
        read_lock(tmp_path / "some.lock")


# Two builds of FBGEMM


def test_one_fbgemm_passes(tmp_path):
    fake_package(tmp_path, name="fbgemm_gpu-cpu", version="1.8.0")
    found = installed_packages([str(tmp_path)])
    assert found == {"fbgemm-gpu-cpu": "1.8.0"}
    refuse_two_fbgemms({"fbgemm-gpu-cpu": "1.8.0"}, installed=found)


@pytest.mark.parametrize(
    ("there", "wanted"), [("fbgemm_gpu", "fbgemm-gpu-cpu"), ("fbgemm-gpu-cpu", "fbgemm-gpu")]
)
def test_the_other_fbgemm_in_the_environment_is_refused(tmp_path, there, wanted):
    fake_package(tmp_path, name=there, version="1.7.0")
    with pytest.raises(
        InstallError, match=rf"{canonical(there)} 1\.7\.0 is installed .*make clean"
    ):
        refuse_two_fbgemms({wanted: "1.8.0"}, installed=installed_packages([str(tmp_path)]))


@pytest.mark.parametrize("names", [[], ["fbgemm-gpu", "fbgemm-gpu-cpu"]])
def test_locks_that_name_none_or_both_are_refused(names):
    with pytest.raises(InstallError, match="exactly one of fbgemm-gpu and fbgemm-gpu-cpu"):
        refuse_two_fbgemms(dict.fromkeys(names, "1.8.0"), installed={})


def test_command_refuses_both_before_pip_runs(tmp_path):
    fake_package(tmp_path, name="fbgemm-gpu", version="1.8.0")
    done = run(
        *(sys.executable, "-m", "launch.check_install", "before", "requirements/cpu.lock"),
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: fbgemm-gpu 1.8.0 is installed in ")
    assert done.stderr.count("\n") == 1


def test_other_versions_are_named_and_build_tags_are_not():
    installed = {"torch": "2.13.0+cpu", "numpy": "2.4.5"}
    with pytest.raises(
        InstallError, match=r"as locked: numpy==2\.4\.6 \(found 2\.4\.5\), tqdm==1 "
    ):
        refuse_other_versions(
            {"torch": "2.13.0", "numpy": "2.4.6", "tqdm": "1"}, installed=installed
        )


# What the user types


def test_wrong_accelerator_gets_one_sentence(tmp_path):
    done = run("make", "install", "ACCEL=tpu", f"VENV={tmp_path / 'venv'}")
    assert done.returncode == 2
    assert "error: ACCEL is 'tpu'; say ACCEL=cpu or ACCEL=gpu" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_old_python_gets_one_sentence(tmp_path):
    pretend = "import sys; sys.version_info = (3, 9, 2); exec(sys.argv[1])"
    text = f'[ "$1" = --version ] && echo Python 3.9.2 || exec {sys.executable} -c "{pretend}" "$2"'
    old = script(tmp_path / "old", text=text)
    done = run("make", "install", "ACCEL=cpu", f"VENV={tmp_path / 'venv'}", f"PYTHON={old}")
    assert done.returncode == 2
    assert "is Python 3.9.2; lfm4ads needs 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.fixture
def clone(tmp_path):
    """A clone with two stages, whose environment is a program that prints its words."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    script(tmp_path / "launch/install.sh", text="exit 0")
    script(tmp_path / ".venv/bin/python", text='echo "$@"')
    for stage in ("prepare", "pretrain"):
        (tmp_path / f"launch/{stage}.py").touch()
        (tmp_path / f"configs/{stage}").mkdir(parents=True)
        (tmp_path / f"configs/{stage}/debug.yaml").touch()
    return tmp_path


def test_stage_of_another_version_gets_one_sentence(clone):
    done = run("make", "plan", "CONFIG=x.yaml", folder=clone)
    assert done.returncode == 2
    assert "error: stage plan is not in this version; there is: prepare pretrain\n" in done.stderr


def test_stage_without_config_lists_the_configs(clone):
    done = run("make", "pretrain", folder=clone)
    assert done.returncode == 2
    assert "needs CONFIG=<file>; there is: configs/pretrain/debug.yaml\n" in done.stderr


def test_prepare_runs_as_one_process(clone):
    done = run("make", "prepare", "CONFIG=a.yaml", "SET=rows=5 seed=1", "RANKS=4", folder=clone)
    assert (done.returncode, done.stdout) == (0, "-m launch.prepare a.yaml rows=5 seed=1\n")


def test_pretrain_runs_on_the_ranks_asked_for(clone):
    done = run("make", "pretrain", "CONFIG=a.yaml", "SET=steps=5", "RANKS=3", folder=clone)
    on_ranks = "-m launch.ranks --nproc-per-node 3"
    assert (done.returncode, done.stdout) == (0, f"{on_ranks} -m launch.pretrain a.yaml steps=5\n")


def test_clean_keeps_data_runs_and_folders_that_are_no_environment(clone):
    kept = [clone / name for name in ("runs/a/report.json", "out/shard.parquet", "mine/keep")]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (clone / ".venv/pyvenv.cfg").touch()
    (clone / "launch/__pycache__").mkdir()
    assert run("make", "clean", "VENV=mine", folder=clone).returncode == 0
    assert (clone / ".venv").exists()
    assert run("make", "clean", folder=clone).returncode == 0
    assert all(path.exists() for path in kept)
    assert not (clone / ".venv").exists()
    assert not (clone / "launch/__pycache__").exists()
