"""What runs were made of: dataset, upstream and checkpoints, snapshots of representations, arms.

Nothing is guessed: a folder that a run names and that is gone, or that a stage left bare, has None.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json, sha256
from lfm4ads.data.manifest import MANIFEST, available_days
from lfm4ads.data.runs import Part, Run, all_parts

Json = dict[str, Any]
_DIGITS = 12
_CHECKPOINT = "checkpoints/day=*/manifest.json"


def config_digest(folder: Path) -> str | None:
    """Return the first digits of the SHA-256 of a run's ``config.yaml``."""
    path = folder / "config.yaml"
    return sha256(path)[:_DIGITS] if path.is_file() else None


def lineage(runs: Sequence[Run], *, pretrain: Path | None = None) -> Json:
    """Return the chain from data to arms, a list a link, as the runs and their inputs tell it.

    Args:
        runs: finished runs of ``transfer`` and ``retrieve``.
        pretrain: run folder of their upstream, where the runs do not name it.
    """
    parts = list(all_parts(runs))
    inputs = [_inputs(part) for part in parts]
    version = next((part.report["upstream"] for part in parts if part.report["upstream"]), None)
    folders = _named(inputs, key="pretrain")
    if pretrain is not None:
        _check_version(pretrain, version=version)
        folders = [pretrain, *(one for one in folders if one.resolve() != pretrain.resolve())]
    datasets = dict.fromkeys(Path(part.report["dataset"]) for part in parts)
    return {
        "datasets": [_dataset(path) for path in datasets],
        "upstreams": [_upstream(path) for path in folders],
        "representations": [
            _representations(path, version=version) for path in _named(inputs, key="reps")
        ],
        "arms": [_arm(arm, runs=[run for run in runs if run.arm == arm]) for arm in _arms(runs)],
    }


def _arms(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.arm for run in runs))


def _inputs(part: Part) -> Json:
    """Return the folders that a run read, as its config names them."""
    path = part.folder / "config.yaml"
    config = OmegaConf.load(path) if path.is_file() else None
    found = config.get("input") if isinstance(config, DictConfig) else None
    if not isinstance(found, DictConfig):
        return {}
    return {str(name): value for name, value in found.items()}


def _named(inputs: Sequence[Json], *, key: str) -> list[Path]:
    return list(dict.fromkeys(Path(one[key]) for one in inputs if one.get(key)))


def _check_version(pretrain: Path, *, version: str | None) -> None:
    path = pretrain / "report.json"
    held = read_json(path).get("upstream") if path.is_file() else None
    if held is not None and version is not None and held != version:
        raise UserError(
            f"{pretrain} holds upstream {held} but the runs used {version}; "
            "pass the run folder of that upstream in pretrain, or leave it out"
        )


def _dataset(path: Path) -> Json:
    file = path / "dataset.json"
    about = read_json(file) if file.is_file() else {}
    days = sorted(int(day) for day in about.get("rows_per_day", {}))
    return {
        "path": str(path),
        "name": about.get("name"),
        "rows": about.get("rows"),
        "first_day": days[0] if days else None,
        "last_day": days[-1] if days else None,
        "num_days": len(days) or None,
        "digest": sha256(file)[:_DIGITS] if file.is_file() else None,
    }


def _upstream(folder: Path) -> Json:
    path = folder / "report.json"
    report = read_json(path) if path.is_file() else {}
    days = sorted(path.parent.name.removeprefix("day=") for path in folder.glob(_CHECKPOINT))
    told = ("dataset", "commit", "steps", "seconds", "rows_per_second", "num_parameters")
    return {
        "folder": str(folder),
        "version": report.get("upstream"),
        **{name: report.get(name) for name in told},
        "config_digest": config_digest(folder),
        "checkpoint_days": [int(day) for day in days if day.isdigit()],
    }


def _representations(root: Path, *, version: str | None) -> Json:
    days = available_days(root, version) if version else []
    newest = root / f"upstream={version}" / f"as_of={days[-1]}" / MANIFEST if days else None
    about = read_json(newest) if newest else {}
    specs = about.get("representations")
    return {
        "folder": str(root),
        "version": version,
        "as_of_days": days,
        "trained_through": about.get("trained_through"),
        "checkpoint_day": about.get("checkpoint_day"),
        "num_representations": None if specs is None else len(specs),
        "rows": about.get("rows"),
        "digest": sha256(newest)[:_DIGITS] if newest else None,
    }


def _arm(arm: str, *, runs: Sequence[Run]) -> Json:
    parts = list(all_parts(runs))
    first = parts[0].report
    return {
        "arm": arm,
        "stage": first.get("stage", "transfer"),
        "upstream": first["upstream"],
        "representations": list(first.get("representations") or ()),
        "as_of": _inputs(parts[0]).get("as_of"),
        "seeds": sorted({run.seed for run in runs}),
        "commits": sorted({part.report.get("commit") or "unknown" for part in parts}),
    }
