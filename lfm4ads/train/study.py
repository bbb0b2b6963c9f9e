"""Arms times seeds of one study: a folder each, finished ones are left as they are."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lfm4ads.core.errors import UserError
from lfm4ads.core.files import prepare_output, read_json, write_text
from lfm4ads.core.log import log
from lfm4ads.core.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is to run, and how a finished run is told from another."""

    output: Path
    """Folder of the runs, ``<arm>/seed-<n>``."""
    arms: Sequence[str]
    seeds: Sequence[int]
    overwrite: bool
    digest: Callable[[str], str]
    """Name of what the result of an arm depends on; ``report.json`` of a run holds it."""
    config: Callable[[str, int], str]
    """Text of a run's own ``config.yaml``."""
    results: Sequence[str]
    """Folders of results, removed where a run begins again."""

    def folder(self, arm: str, seed: int) -> Path:
        """Return the folder of a run."""
        return self.output / arm / f"seed-{seed}"

    def run(self, run_arm: Callable[[str, int], None], *, ranks: Ranks) -> Path:
        """Call ``run_arm`` for every arm and seed that is not finished; return the output folder.

        Raises:
            UserError: Nothing is left to do, or a folder holds another finished run.
        """
        pending = [
            (arm, seed)
            for seed in self.seeds
            for arm in self.arms
            if self._open(arm, seed, ranks=ranks)
        ]
        if not pending:
            raise UserError(
                f"{self.output} already holds every arm and seed; choose another output or pass"
                " overwrite=true",
                everywhere=True,
            )
        for arm, seed in pending:
            run_arm(arm, seed)
        log.info("%d runs are in %s", len(self.arms) * len(self.seeds), self.output)
        return self.output

    def _open(self, arm: str, seed: int, *, ranks: Ranks) -> bool:
        """Make the folder of a run; return False where it holds this very run, finished."""
        folder, state = self.folder(arm, seed), ""
        with ranks.together():
            if ranks.is_first:
                report = folder / "report.json"
                same = report.exists() and read_json(report)["digest"] == self.digest(arm)
                if same and not self.overwrite:
                    state = "finished"
                else:
                    prepare_output(folder, overwrite=self.overwrite)
                    for name in self.results:
                        shutil.rmtree(folder / name, ignore_errors=True)
                    write_text(folder / "config.yaml", self.config(arm, seed))
        return ranks.broadcast(state) != "finished"
