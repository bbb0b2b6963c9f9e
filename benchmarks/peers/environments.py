"""A throw-away virtual environment for every peer, made with pip when it is missing."""

import subprocess
import sys
import venv
from pathlib import Path

_COMMON = ("torch==2.13.0", "numpy==2.4.6", "pandas==3.1.1", "pyarrow==26.0.1")
PEERS = {
    "torch-rechub": ("torch-rechub==0.9.0", "scikit-learn==1.9.1"),
    "FuxiCTR": ("fuxictr==2.3.10", "scikit-learn==1.9.1"),
    # It imports requests and does not declare it.
    "DeepCTR-Torch": ("deepctr-torch==0.3.0", "scikit-learn==1.9.1", "requests==2.34.2"),
}


def interpreter(peer: str, *, folder: Path) -> str:
    """Return the peer's own python, installing it first where the environment is not whole."""
    home = (folder / peer).resolve()
    python, whole = home / "bin" / "python", home / "installed.txt"
    wanted = " ".join((*_COMMON, *PEERS[peer]))
    if not whole.exists() or whole.read_text(encoding="utf-8") != wanted:
        print(f"installing {peer} into {home}", file=sys.stderr, flush=True)
        venv.create(home, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", *wanted.split()]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        whole.write_text(wanted, encoding="utf-8")
    return str(python)
