"""A stage's config: every mistake is one sentence, and what was written reads back equal."""

from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from lfm4ads.core.config import config_yaml, load_config, parse_config
from lfm4ads.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Optim:
    kind: Literal["adam", "sgd"] = "adam"
    rate: float = 0.1

    def __post_init__(self):
        if self.rate <= 0:
            raise ValueError(f"optim.rate must be positive, got {self.rate}")


@dataclass(frozen=True, kw_only=True)
class Config:
    data: Path
    steps: int = 10
    widths: tuple[int, ...] = (4, 2)
    name: str | None = None
    optim: Optim = field(default_factory=Optim)
    extra: dict[str, Optim] = field(default_factory=dict)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("data: here\nsteps: 20\noptim: {kind: sgd}\nextra: {a: {rate: 2}}\n")
    return str(path)


def refusal(*argv) -> str:
    with pytest.raises(UserError) as caught:
        load_config(Config, argv)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_words_win_over_the_file_and_the_file_over_defaults(file):
    config = load_config(Config, [file, "optim.rate=0.5", "widths=[1,2,3]", "steps=1_000"])
    assert config == Config(
        data=Path("here"),
        steps=1_000,
        widths=(1, 2, 3),
        optim=Optim(kind="sgd", rate=0.5),
        extra={"a": Optim(rate=2.0)},
    )
    assert isinstance(config.data, Path)
    assert isinstance(config.optim, Optim)


def test_the_result_is_frozen(file):
    config = load_config(Config, [file])
    with pytest.raises(FrozenInstanceError):
        config.steps = 3
    with pytest.raises(FrozenInstanceError):
        config.optim.rate = 3.0


def test_what_was_written_reads_back_equal(file):
    config = load_config(Config, [file, "name='null'", "optim.rate=0.1"])
    assert parse_config(Config, config_yaml(config)) == config
    Path(file).write_text(config_yaml(config))
    assert load_config(Config, [file]) == config


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["stepz=3"], ["stepz", "Did you mean", "'steps'"]),
        (["optim.ratee=3"], ["ratee", "Did you mean", "'rate'"]),
        (["steps=many"], ["'many'", "Integer", "steps"]),
        (["steps=1e6"], ["1000000.0", "Integer", "steps"]),
        (["steps=null"], ["steps"]),
        (["optim.kind=rmsprop"], ["rmsprop", "adam", "sgd"]),
        (["optim.rate=-1"], ["optim.rate must be positive, got -1.0"]),
        (["extra.a.rate=-1"], ["must be positive, got -1.0"]),
    ],
)
def test_a_wrong_word_is_named(file, words, parts):
    sentence = refusal(file, *words)
    assert sentence.startswith(f"{file}: ")
    for part in parts:
        assert part in sentence


def test_a_wrong_key_in_the_file_is_named(file):
    Path(file).write_text("data: here\nstepz: 3\n")
    assert "Did you mean: 'steps'" in refusal(file)


def test_a_missing_required_key_is_named(file):
    Path(file).write_text("steps: 3\n")
    assert "data" in refusal(file)


def test_a_key_given_twice_is_refused(file):
    Path(file).write_text("data: here\nsteps: 3\nsteps: 4\n")
    assert "steps" in refusal(file)


def test_files_that_cannot_be_read(file, tmp_path):
    assert "no config was given" in refusal()
    absent = str(tmp_path / "absent.yaml")
    assert refusal(absent) == f"config {absent} does not exist; see configs/ for what there is"
    assert "does not exist" in refusal(str(tmp_path))
    Path(file).write_text("data: [1, 2\nsteps: 3\n")
    assert refusal(file).startswith(f"{file} is not valid YAML: ")
