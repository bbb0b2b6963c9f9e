"""The command writes the same world every time, whole or not at all."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from data.adsworld import prepare as adsworld
from lfm4ads.core.config import load_config
from lfm4ads.core.errors import UserError
from tests.unit.data_adsworld.conftest import DEBUG, ROOT, days_of, prepare, read_day


def digests(dataset: Path) -> dict[str, str]:
    return {
        str(path.relative_to(dataset)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(dataset.rglob("*.parquet"))
    }


def test_same_seed_same_bytes_other_seed_other_rows(debug_world, tmp_path):
    first = digests(debug_world)
    assert digests(prepare(tmp_path / "again")) == first
    other = prepare(tmp_path / "other", "seed=1")
    assert digests(other).keys() == first.keys()
    for day in days_of(other):
        times = [read_day(dataset, day)["time"].to_numpy() for dataset in (debug_world, other)]
        assert (times[0] != times[1]).mean() > 0.9


def test_a_day_does_not_depend_on_how_many_follow(debug_world, tmp_path):
    short = digests(prepare(tmp_path / "short", "days=3"))
    assert len(short) == 12
    assert short.items() <= digests(debug_world).items()


def test_days_cross_months_and_leap_years(tmp_path):
    dataset = prepare(tmp_path / "world", "first_day=20240227", "days=4")
    assert days_of(dataset) == [20240227, 20240228, 20240229, 20240301]


def test_manifest_tells_rows_and_config(debug_world):
    manifest = json.loads((debug_world / "dataset.json").read_text())
    assert manifest["name"] == "adsworld"
    assert manifest["rows_per_day"] == {str(day): 1_000 for day in days_of(debug_world)}
    assert manifest["config"]["world"]["users"]["count"] == 300
    assert manifest["config"]["seed"] == 0


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("first_day=20260231", "first_day must be a date written YYYYMMDD, got 20260231"),
        ("days=0", "days and fit_days must be at least 1, got 0"),
        ("world.key_bits=8", "raise world.key_bits"),
        ("world.user.count=3", "did you mean users?"),
        ("world.ads.new_per_day=1000", "new_per_day must be in 1..count, got 1000 of 60"),
        ("world.feedback.ads_click_rate=2", "ads_click_rate must be in (0, 0.5], got 2.0"),
    ],
)
def test_a_mistake_gets_a_sentence(tmp_path, word, sentence):
    with pytest.raises(UserError) as caught:
        load_config(adsworld.Config, [DEBUG, f"output={tmp_path}", word])
    assert sentence in str(caught.value)


def launch(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.prepare", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_command_writes_once_and_refuses_twice(tmp_path):
    output = tmp_path / "world"
    done = launch(DEBUG, f"output={output}", "days=1")
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1
    assert "wrote 1000 rows of 1 days" in done.stderr
    assert (output / "dataset.json").is_file()
    refused = launch(DEBUG, f"output={output}", "days=1")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {output} already holds a finished dataset")
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "no config was given"),
        (("nowhere.yaml",), "config nowhere.yaml does not exist"),
        ((DEBUG, "dataset=movies"), "dataset must be adsworld or kuairand, got movies"),
    ],
)
def test_command_fails_in_one_sentence(words, sentence):
    done = launch(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
