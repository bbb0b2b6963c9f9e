"""``python -m launch.check_install before|after <lock> ...``: refuses what cannot work.

``fbgemm-gpu`` and ``fbgemm-gpu-cpu`` unpack into one folder, so whichever comes last wins silently,
and torchrec asks for the first by name. Standard library only: it runs before pip does.
"""

import ctypes
import importlib
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path

FBGEMMS = ("fbgemm-gpu", "fbgemm-gpu-cpu")
NO_CUDA_LIBRARIES = 3
"""Exit status that tells launch/install.sh to take a torch away that this machine cannot load."""

_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+]*)")


class InstallError(Exception):
    """What is wrong with the environment, in one sentence with the fix."""

    def __init__(self, sentence: str, *, status: int = 2) -> None:
        super().__init__(sentence)
        self.status = status


def canonical(name: str) -> str:
    """Return a package name as indexes compare it: lower case, dashes."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(path: Path) -> dict[str, str]:
    """Return name -> exact version of every package in a lock and in the locks it includes."""
    if not path.is_file():
        raise InstallError(f"lock {path} does not exist; see requirements/")
    pins: dict[str, str] = {}
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = raw.split("#")[0].strip()
        if line.startswith("-r "):
            pins |= read_lock(path.parent / line.removeprefix("-r ").strip())
        elif match := _PIN.fullmatch(line):
            pins[canonical(match["name"])] = match["version"]
        elif line:
            raise InstallError(f"{path}:{number} is {line!r}; a lock pins name==version")
    return pins


def installed_packages(folders: Sequence[str] | None = None) -> dict[str, str]:
    """Return name -> version of what is installed in ``folders``, or in this interpreter."""
    found = distributions() if folders is None else distributions(path=list(folders))
    return {canonical(package.name): package.version for package in found if package.name}


def refuse_two_fbgemms(pins: Mapping[str, str], *, installed: Mapping[str, str]) -> None:
    """Raise unless the locks and the environment together hold exactly one build of FBGEMM."""
    named = [name for name in FBGEMMS if name in pins]
    if len(named) != 1:
        raise InstallError(
            f"the locks name {' and '.join(named) or 'no build of FBGEMM'}; they must name exactly "
            f"one of {' and '.join(FBGEMMS)}, which unpack into the same folder"
        )
    others = [name for name in FBGEMMS if name in installed and name not in named]
    if others:
        raise InstallError(
            f"{others[0]} {installed[others[0]]} is installed in {sys.prefix} and {named[0]} would "
            "unpack over it; remove that environment (make clean) and install again"
        )


def refuse_other_versions(pins: Mapping[str, str], *, installed: Mapping[str, str]) -> None:
    """Raise unless every pinned package is there as pinned; a build tag (+cpu) is no difference."""
    wrong = [
        f"{name}=={version} (found {installed.get(name, 'none')})"
        for name, version in sorted(pins.items())
        if installed.get(name, "").split("+")[0] != version
    ]
    if wrong:
        raise InstallError(f"not as locked: {', '.join(wrong)}; run make install again")


def has_driver() -> bool:
    """Whether NVIDIA's driver is here; the CUDA build of FBGEMM does not load without it."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def try_lookup() -> None:
    """Look three ids up in a small table through torch, FBGEMM and torchrec on the CPU."""
    logging.disable(logging.WARNING)  # torch.fx warns of its own renamed functions
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError, ValueError) as error:
        raise InstallError(
            f"torch cannot load its libraries here ({str(error).splitlines()[0]}); if it is the "
            "CUDA build on a machine without CUDA, run: make install ACCEL=cpu "
            "TORCH_INDEX=<address of PyTorch's index of CPU wheels>",
            status=NO_CUDA_LIBRARIES,
        ) from error
    try:
        importlib.import_module("fbgemm_gpu")
        torchrec = importlib.import_module("torchrec")
        ends = torch.ops.fbgemm.asynchronous_complete_cumsum(torch.tensor([2, 1]))
    except (ImportError, OSError, AttributeError) as error:
        raise InstallError(
            f"torchrec or FBGEMM does not load ({str(error).splitlines()[0]}); remove the "
            "environment (make clean) and install again"
        ) from error
    table = torchrec.EmbeddingBagConfig(
        name="table", num_embeddings=8, embedding_dim=4, feature_names=["feature"]
    )
    bag = torchrec.EmbeddingBagCollection(tables=[table], device=torch.device("cpu"))
    ids = torchrec.KeyedJaggedTensor(
        keys=["feature"], values=torch.tensor([1, 2, 3]), lengths=torch.tensor([2, 1])
    )
    rows = bag.embedding_bags["table"].weight
    expected = torch.stack([rows[1] + rows[2], rows[3]])
    if ends.tolist() != [0, 2, 3] or not torch.allclose(bag(ids).values(), expected):
        raise InstallError(
            "a lookup gave wrong numbers; remove the environment (make clean) and install again"
        )


def check(moment: str, *, locks: Sequence[Path]) -> None:
    """Check the environment ``before`` pip runs or ``after`` it; raise ``InstallError``."""
    pins: dict[str, str] = {}
    for lock in locks:
        pins |= read_lock(lock)
    installed = installed_packages()
    refuse_two_fbgemms(pins, installed=installed)
    if moment == "before":
        return
    refuse_other_versions(pins, installed=installed)
    if "fbgemm-gpu" in pins and not has_driver():
        print("no NVIDIA driver here: versions were checked, loading was not", file=sys.stderr)
        return
    try_lookup()


def main() -> int:
    """Check as the words say; return the exit status."""
    match sys.argv[1:]:
        case [("before" | "after") as moment, *locks] if locks:
            try:
                check(moment, locks=[Path(lock) for lock in locks])
            except InstallError as error:
                print(f"error: {error}", file=sys.stderr)
                return error.status
            return 0
        case _:
            print("usage: python -m launch.check_install before|after <lock> ...", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
