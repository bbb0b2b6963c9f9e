"""Every file under configs/ loads against its stage, and says how it is run."""

import importlib
from pathlib import Path

import pytest
import yaml

from lfm4ads.core.config import load_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(ROOT.glob("configs/*/*.yaml"))
STAGES = sorted({path.stem for path in ROOT.glob("lfm4ads/stages/*.py")} - {"__init__"})


def stage_of(path: Path) -> str:
    """Return the stage whose folder a config is in."""
    return {"experiments": "experiment"}.get(path.parent.name, path.parent.name)


def schema_of(path: Path) -> type:
    """Return the dataclass a config is typed by: its stage's, or its dataset's for ``prepare``."""
    stage = stage_of(path)
    if stage == "prepare":
        dataset = yaml.safe_load(path.read_text(encoding="utf-8"))["dataset"]
        return importlib.import_module(f"data.{dataset}.prepare").Config
    return importlib.import_module(f"lfm4ads.stages.{stage}").Config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_config_loads_against_its_stage(path):
    schema = schema_of(path)
    assert isinstance(load_config(schema, [str(path)]), schema)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_config_opens_with_its_command(path):
    stage, name = stage_of(path), str(path.relative_to(ROOT))
    opening = path.read_text(encoding="utf-8").splitlines()[0]
    assert opening.startswith("# ")
    assert f"make {stage} " in opening or f"-m launch.{stage} " in opening
    assert name in opening


@pytest.mark.parametrize("stage", ["prepare", *STAGES])
def test_stage_has_a_command_and_a_config(stage):
    assert (ROOT / "launch" / f"{stage}.py").is_file()
    assert [path for path in CONFIGS if stage_of(path) == stage]


@pytest.mark.parametrize(
    "dataset", sorted(path.parent.name for path in ROOT.glob("data/*/prepare.py"))
)
def test_dataset_has_a_config(dataset):
    schemas = {schema_of(path).__module__ for path in CONFIGS if path.parent.name == "prepare"}
    assert f"data.{dataset}.prepare" in schemas
