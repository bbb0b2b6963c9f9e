"""An upstream run as the stages after it see it: a version and a checkpoint per day."""

from dataclasses import dataclass
from pathlib import Path

from lfm4ads.core.checkpoint import check_checkpoint, complete_checkpoints
from lfm4ads.core.config import parse_config
from lfm4ads.core.errors import UserError
from lfm4ads.model.config import LfmConfig
from lfm4ads.shard.idspace import IdsConfig


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """The checkpoints of one upstream run; all of one version."""

    folder: Path
    version: str
    config: LfmConfig
    ids: IdsConfig
    """How its managed tables give rows to ids."""
    days: dict[int, Path]
    seen_through: int
    """Last day whose labels the first checkpoint has seen, early stopping included."""

    def checkpoint(self, day: int) -> Path:
        """Return the checkpoint left at the end of a day."""
        if day not in self.days:
            raise UserError(
                f"{self.folder} has no checkpoint of day {day}; it has {min(self.days)} to"
                f" {max(self.days)}"
            )
        return self.days[day]


def open_lineage(folder: Path) -> Lineage:
    """Read what checkpoints a pretrain run folder holds."""
    found = complete_checkpoints(folder / "checkpoints", pattern="day=*")
    if not found:
        raise UserError(
            f"{folder} has no checkpoint of a day; run pretrain first or point pretrain at its run"
            " folder"
        )
    metas = {one: check_checkpoint(one) for one in found}
    first = metas[found[0]]
    return Lineage(
        folder=folder,
        version=first["upstream"],
        config=parse_config(LfmConfig, first["model"]),
        ids=parse_config(IdsConfig, first["ids"]),
        days={meta["day"]: one for one, meta in metas.items()},
        seen_through=first["seen_through"],
    )
