"""Tasks that can only happen after another one: ESMM's product of probabilities.

Dimension key: B rows, T tasks.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lfm4ads.core.errors import UserError


def plan_given(given: Mapping[str, str], *, tasks: Sequence[str]) -> list[tuple[int, int]]:
    """Return (task, task it comes after) by place, in an order in which each can be worked out.

    Raises:
        UserError: A task is unknown, or comes after itself.
    """
    for task in (*given, *given.values()):
        if task not in tasks:
            raise UserError(
                f"heads.given names task {task}; the tasks are {', '.join(tasks)}", everywhere=True
            )
    steps: list[tuple[int, int]] = []
    done = [task for task in tasks if task not in given]
    while len(done) < len(tasks):
        ready = [task for task in tasks if task not in done and given[task] in done]
        if not ready:
            circle = ", ".join(task for task in tasks if task not in done)
            raise UserError(f"heads.given lets {circle} come after themselves", everywhere=True)
        steps += [(tasks.index(task), tasks.index(given[task])) for task in ready]
        done += ready
    return steps


def conditional_logits(logits_BT: Tensor, steps: Sequence[tuple[int, int]]) -> Tensor:
    """Return log odds of p(task) = p(own | given) p(given) in the places of ``steps`` (B, T).

    With a, b the log odds of the factors, p q = e^(a+b) / ((1 + e^a)(1 + e^b)) and 1 - p q has
    1 + e^a + e^b above the same, so the log odds are a + b - log(1 + e^a + e^b): no probability is
    ever computed, and none can underflow (arXiv 1804.07931, Eq. 1).
    """
    if not steps:
        return logits_BT
    columns = list(logits_BT.unbind(1))
    for task, given in steps:
        a_B, b_B = columns[task], columns[given]
        top_B = torch.logsumexp(torch.stack([torch.zeros_like(a_B), a_B, b_B]), dim=0)
        columns[task] = a_B + b_B - top_B
    return torch.stack(columns, dim=1)
