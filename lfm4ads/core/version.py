"""A short name for what a run was made of."""

import hashlib
import subprocess
from pathlib import Path

from lfm4ads.core.config import config_yaml


def digest(*parts: object) -> str:
    """Return 12 hex digits that change when any part (a config, a text) changes."""
    text = "\0".join(part if isinstance(part, str) else config_yaml(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def git_commit() -> str:
    """Return the commit of this checkout, ``-dirty`` where files differ; empty outside one."""
    root = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
