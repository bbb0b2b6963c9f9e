"""Where tasks take their experts from: the mean weight a merge gave, over scored rows.

Dimension key: B rows, S streams, M experts, G groups of experts.
"""

import torch
from torch import Tensor

from lfm4ads.core.log import MetricsLog
from lfm4ads.core.ranks import Ranks
from lfm4ads.model.lfm import Lfm, LfmOutput

Mass = dict[str, dict[str, float]]
"""Task (or ``all``, where tasks merge together) -> group of experts -> share; shares sum to 1."""


class GateMass:
    """Sums the weights of the merge's last level; groups are owners where experts have one.

    STEM's ``return_gate`` (arXiv 2308.13537): T task groups and the shared one. Of experts without
    owners a group is a table set, and on one table set an expert.
    """

    def __init__(self, model: Lfm, *, device: torch.device) -> None:
        self._streams, self._groups = model.mix.streams, model.mix.groups
        self._sum_SM = torch.zeros(
            len(self._streams), len(self._groups), dtype=torch.float64, device=device
        )
        self._rows = torch.zeros((), dtype=torch.float64, device=device)

    def update(self, output: LfmOutput, valid_B: Tensor) -> None:
        """Add the valid rows of a batch."""
        kept_B = valid_B.double()
        self._sum_SM += torch.einsum("bsm,b->sm", output.weights.detach().double(), kept_B)
        self._rows += kept_B.sum()

    def reduce(self, ranks: Ranks) -> Mass:
        """Return the shares over the rows of all ranks, nothing of one expert. Collective."""
        names = list(dict.fromkeys(self._groups))
        if len(names) < 2:
            return {}
        places = torch.tensor([names.index(one) for one in self._groups])
        sum_SG = torch.zeros(len(self._streams), len(names), dtype=torch.float64)
        sum_SG.index_add_(1, places, self._sum_SM.cpu())
        whole_SG = ranks.sum(sum_SG.numpy())
        rows = max(float(ranks.sum(self._rows.cpu().numpy())), 1.0)
        return {
            stream or "all": {name: float(whole_SG[at, g] / rows) for g, name in enumerate(names)}
            for at, stream in enumerate(self._streams)
        }


def log_gates(mass: Mass, metrics: MetricsLog, *, step: int, split: str) -> None:
    """Write every share to metrics.jsonl, as ``gate/<task>/<group>``."""
    for task, shares in mass.items():
        for group, share in shares.items():
            metrics.write(f"gate/{task}/{group}", share, step=step, split=split, unit="share")
