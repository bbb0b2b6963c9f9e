"""``launch/chromium.sh`` finds a browser, installs one, or says in a sentence why it cannot."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def fake(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bin_folder(tmp_path):
    """A machine with bash and an ``id`` that is root, and nothing else."""
    fake(tmp_path, "id", "echo 0")
    return tmp_path


def find(bin_folder, **environment):
    plain = {name: value for name, value in os.environ.items() if name != "CHROMIUM"}
    return subprocess.run(
        ["/bin/bash", ROOT / "launch" / "chromium.sh"],
        env=plain | {"PATH": str(bin_folder)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_browser_that_starts_is_taken_as_it_is(bin_folder):
    fake(bin_folder, "chromium", "exit 1")  # a stub that names a snap
    chrome = fake(bin_folder, "google-chrome", "echo Chrome 150")
    fake(bin_folder, "apt-get", "exit 9")
    done = find(bin_folder)
    assert (done.returncode, done.stdout) == (0, f"{chrome}\n")


def test_a_missing_one_is_installed(bin_folder):
    install = (
        f"printf '#!/bin/bash\\n' > {bin_folder}/chromium; /bin/chmod +x {bin_folder}/chromium"
    )
    fake(
        bin_folder,
        "apt-get",
        f'echo "$@" >> {bin_folder}/words\n[ "$1" = update ] || {{ {install}; }}',
    )
    done = find(bin_folder)
    assert (done.returncode, done.stdout.strip()) == (0, str(bin_folder / "chromium"))
    assert "install -qq -y" in (bin_folder / "words").read_text()


@pytest.mark.parametrize(
    ("machine", "words", "sentence"),
    [
        ({}, {}, "no Chromium and no apt-get here"),
        ({"apt-get": "exit 100"}, {}, "if this machine is offline say CHROMIUM=<program>"),
        ({"apt-get": "exit 0"}, {}, "does not start"),
        ({"apt-get": "exit 0", "id": "echo 1000"}, {}, "run 'sudo apt-get install chromium' once"),
        ({}, {"CHROMIUM": "/nowhere"}, "CHROMIUM is '/nowhere', which does not start"),
    ],
)
def test_a_machine_that_cannot_have_one_is_told_so(bin_folder, machine, words, sentence):
    for name, text in machine.items():
        fake(bin_folder, name, text)
    done = find(bin_folder, **words)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert sentence in done.stderr
