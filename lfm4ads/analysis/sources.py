"""The words that make a run again, and the config it had."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json
from lfm4ads.data.runs import Part, Run, all_parts

AGAIN = "out/again"
"""Where the commands write, beside what they make again."""
MAX_SOURCES = 60
"""Configs on a page; of more that differ, the first of each arm is shown."""
_SEEDS = re.compile(r"^seeds:\n- \d+\n", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where some figures came from: a run's config and the command that makes it again."""

    title: str
    command: str
    config: str


def quoted(path: Path) -> str:
    """Return a path as a word of a command line."""
    return shlex.quote(str(path))


def run_command(part: Part) -> str:
    """Return the words that make one run again, from the config it wrote."""
    stage = part.report.get("stage", "transfer")
    path = part.folder / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{path} does not exist, so {part.name} cannot be made again; rerun {stage} for it"
        )
    # Runs of one arm and seed that were told different scenarios share a folder's name.
    output = "-".join((f"{AGAIN}/runs", *part.scenarios))
    return f"python -m launch.{stage} {quoted(path)} {shlex.quote(f'output={output}')}"


def run_sources(runs: Sequence[Run]) -> list[Source]:
    """Return the config of every run, once where runs of an arm differ in their seed alone.

    Of more than ``MAX_SOURCES`` it is those of each arm's first run.
    """
    alike: dict[tuple[str, str], list[Part]] = {}
    for part in all_parts(runs):
        alike.setdefault((part.report["arm"], _SEEDS.sub("", _config(part))), []).append(part)
    if len(alike) <= MAX_SOURCES:
        return [_run_source(group, rest="but for the seed also") for group in alike.values()]
    by_arm: dict[str, list[Part]] = {}
    for part in all_parts(runs):
        by_arm.setdefault(part.report["arm"], []).append(part)
    return [_run_source(group, rest="the first of the arm's, before") for group in by_arm.values()]


def _config(part: Part) -> str:
    return (part.folder / "config.yaml").read_text(encoding="utf-8")


def _run_source(parts: Sequence[Part], *, rest: str) -> Source:
    """Describe the first of some runs, and name the others after the words ``rest``."""
    first, others = parts[0], ", ".join(part.name for part in parts[1:])
    command = run_command(first)
    if "command" in first.report:
        command += f"\n# it was run as: {first.report['command']}"
    title = f"{first.name}, {rest} {others}" if others else first.name
    return Source(title=title, command=command, config=_config(first))


def input_sources(chain: Mapping[str, Any]) -> list[Source]:
    """Return the sources of what the runs read, as far as it keeps its config.

    Args:
        chain: ``lineage`` of ``report.json``.
    """
    found: list[Source] = []
    for one in chain["datasets"]:
        path = Path(one["path"]) / "dataset.json"
        config = read_json(path).get("config") if path.is_file() else None
        if config:
            command = (
                "# after what is below, which is YAML too, was saved as dataset.yaml\n"
                f"python -m launch.prepare dataset.yaml output={AGAIN}/data"
            )
            text = json.dumps(config, indent=1)
            found.append(Source(title=f"dataset {one['name']}", command=command, config=text))
    for one in chain["upstreams"]:
        found += _stage_source(
            Path(one["folder"]), stage="pretrain", title=f"upstream {one['version']}"
        )
    for one in chain["representations"]:
        folder = Path(one["folder"]) / f"upstream={one['version']}"
        found += _stage_source(folder, stage="dump", title=f"representations of {one['version']}")
    return found


def _stage_source(folder: Path, *, stage: str, title: str) -> list[Source]:
    path = folder / "config.yaml"
    if not path.is_file():
        return []
    command = f"python -m launch.{stage} {quoted(path)} output={AGAIN}/{stage}"
    return [Source(title=title, command=command, config=path.read_text(encoding="utf-8"))]
