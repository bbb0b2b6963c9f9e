"""One logit per (scenario, task).

Dimension key: B rows, H hidden width, S scenarios, T tasks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ScenarioHeads(nn.Module):
    """logit[b, t] = (w_t + dw_{s,t}) . relu(h_bt) + c_{s,t} with s the row's scenario.

    The shared w_t lets a scenario of a hundred rows borrow from the large ones; its own part starts
    at zero.
    """

    def __init__(self, width: int, *, scenarios: int, tasks: int) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.empty(tasks, width))
        self.delta = nn.Parameter(torch.zeros(scenarios, tasks, width))
        self.bias = nn.Parameter(torch.zeros(scenarios, tasks))
        nn.init.normal_(self.shared, std=width**-0.5)

    def forward(self, h: Tensor, scenario_B: Tensor) -> Tensor:
        """Return logits (B, T) from scenario ids (B,) and pre-activations.

        They are (B, H), one for all tasks, or (B, T, H).
        """
        weight_STH = self.shared + self.delta
        words = "bh,sth->bst" if h.dim() == 2 else "bth,sth->bst"
        all_BST = torch.einsum(words, F.relu(h), weight_STH) + self.bias
        index_B1T = scenario_B.view(-1, 1, 1).expand(-1, 1, all_BST.shape[2])
        return all_BST.gather(1, index_B1T).squeeze(1)
