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
    ("word", "words"),
    [
        ("stepz=3", "there is no key stepz; did you mean steps?"),
        ("optim.ratee=3", "there is no key optim.ratee; did you mean rate?"),
        ("optim.x=3", "there is no key optim.x; the keys there are kind, rate"),
        ("steps=many", "Value 'many' of type 'str' could not be converted to Integer"),
        ("steps=1e6", "Value '1000000.0' of type 'float' could not be converted to Integer"),
        ("widths=[2, a]", "Value could not be converted to Integer"),
        ("optim.kind=rms", "Invalid value 'rms', expected one of ['adam', 'sgd']"),
    ],
)
def test_a_wrong_word_is_named(file, word, words):
    assert refusal(file, "name=x", word) == f"{word}: {words}"


def test_a_word_that_is_no_yaml_is_named(file):
    assert refusal(file, "steps=3", "widths=[1").startswith("widths=[1 is not valid YAML: line ")
    assert refusal(file, "steps=null").startswith("steps=null: ")


@pytest.mark.parametrize("word", ["optim.rate=-1", "extra.a.rate=-1"])
def test_a_broken_invariant_is_told_in_its_own_words(file, word):
    assert refusal(file, word) == f"{file}: optim.rate must be positive, got -1.0"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: here\nstepz: 3\n", "there is no key stepz; did you mean steps?"),
        ("data: a\noptim: {x: 1}", "there is no key optim.x; the keys there are kind, rate"),
        ("data: a\nsteps: b", "steps: Value 'b' of type 'str' could not be converted to Integer"),
        ("steps: 3\n", "data is missing; add it or pass data=<value>"),
        ("", "data is missing; add it or pass data=<value>"),
    ],
)
def test_a_wrong_key_in_the_file_is_named(file, text, words):
    Path(file).write_text(text)
    assert refusal(file, "name=x") == f"{file}: {words}"


@pytest.mark.parametrize("text", ["- a\n- b\n", "3"])
def test_a_file_that_is_no_mapping(file, text):
    Path(file).write_text(text)
    assert refusal(file) == f"{file} must hold 'key: value' lines; see configs/ for examples"


def test_a_key_given_twice_is_refused(file):
    Path(file).write_text("data: here\nsteps: 3\nsteps: 4\n")
    assert refusal(file) == f"{file} is not valid YAML: line 3: found duplicate key steps"


def test_files_that_cannot_be_read(file, tmp_path):
    assert "no config was given" in refusal()
    absent = str(tmp_path / "absent.yaml")
    assert refusal(absent) == f"config {absent} does not exist; see configs/ for what there is"
    assert "does not exist" in refusal(str(tmp_path))
    Path(file).write_text("data: [1, 2\nsteps: 3\n")
    assert refusal(file).startswith(f"{file} is not valid YAML: line 2: ")
