"""A launch script ends with status 0, or with 2 and one sentence."""

import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore

from lfm4ads.core.command import main
from lfm4ads.core.errors import UserError
from lfm4ads.core.log import log
from lfm4ads.core.ranks import Ranks

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
from tests.unit.core.test_command import Config, run
from lfm4ads.core.command import main

sys.exit(main(Config, run))
"""


@dataclass(frozen=True)
class Config:
    fault: str = ""


def run(config: Config, ranks: Ranks):
    if config.fault == "user":
        raise UserError(f"day 3 of {ranks.world} is missing; add it")
    if config.fault == "disk":
        Path("no/such/folder").mkdir()
    if config.fault == "pipe":
        raise OSError("gone")
    if config.fault == "bug":
        raise ValueError("a bug")
    sys.stdout.write(f"ran on {ranks.rank} of {ranks.world}, {ranks.device}\n")


def test_the_status_and_the_sentence_of_a_program(tmp_path):
    (tmp_path / "tiny.py").write_text(SCRIPT)
    (tmp_path / "tiny.yaml").write_text("")
    running = [
        subprocess.Popen(
            [sys.executable, "tiny.py", "tiny.yaml", f"fault={fault}"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "LFM4ADS_DEVICE": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for fault in ("user", "disk")
    ]
    ended = [(*process.communicate(timeout=100), process.returncode) for process in running]
    assert ended == [
        ("", "error: day 3 of 1 is missing; add it\n", 2),
        ("", "error: no/such/folder: No such file or directory\n", 2),
    ]


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Call main in this process, and put back what it sets for its own."""
    path = tmp_path / "tiny.yaml"
    path.write_text("")
    monkeypatch.setenv("LFM4ADS_DEVICE", "cpu")
    handlers, level, propagate = log.handlers, log.level, log.propagate

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["tiny.py", str(path), *words])
        return main(Config, run)

    yield call
    torch.set_flush_denormal(False)
    log.handlers, log.propagate = handlers, propagate
    log.setLevel(level)
    for name in ("torchrec", "torch.fx", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_a_run_that_ends_well(command, capsys):
    assert command() == 0
    assert capsys.readouterr() == ("ran on 0 of 1, cpu\n", "")


def test_an_error_without_a_file_has_a_sentence_too(command, capsys):
    assert command("fault=pipe") == 2
    assert capsys.readouterr() == ("", "error: input/output: gone\n")


def test_a_bug_is_not_dressed_up_as_the_user_s_mistake(command):
    with pytest.raises(ValueError, match="a bug"):
        command("fault=bug")
    assert not torch.distributed.is_initialized()


def test_a_mistake_before_there_are_ranks_is_one_sentence(command, capsys, monkeypatch):
    monkeypatch.setenv("LFM4ADS_TIMEOUT_SECONDS", "soon")
    assert command() == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: LFM4ADS_TIMEOUT_SECONDS is 'soon'; give seconds")
    assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_a_rank_that_does_not_come_to_the_start_is_named(command, capsys, monkeypatch):
    agent = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    start = {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    start |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(agent.port)}
    for name, value in (start | {"LFM4ADS_TIMEOUT_SECONDS": "1"}).items():
        monkeypatch.setenv(name, value)
    assert command() == 75
    said = capsys.readouterr().err
    assert said == "error: ranks 1 did not come to the start; see what they said\n"


def test_a_mistake_in_the_words_is_one_sentence(command, capsys):
    assert command("fualt=user") == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == printed.count("did you mean fault?") == 1
    assert printed.startswith("error: ")
