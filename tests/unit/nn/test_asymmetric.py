"""Asymmetric multi-embedding: few table sets of unequal width, a gate a task."""

import copy

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from lfm4ads.nn.access import plan_access
from lfm4ads.nn.branch import MixConfig
from lfm4ads.nn.experts import ExpertConfig, Merge, MergeConfig
from lfm4ads.nn.interactions.config import InteractionConfig
from lfm4ads.nn.mix import MixTower, SetLayout
from lfm4ads.nn.tables import Tables, TableSet
from tests.unit.nn.merging import merged

WIDTHS = {"small": 16, "medium": 32, "large": 64}


@pytest.mark.parametrize("num_tasks", [2, 20])
def test_few_tables_of_unequal_width_serve_any_number_of_tasks(schema, num_tasks):
    """AME: the number of tables does not grow with the tasks."""
    sets = {name: TableSet(dim=dim) for name, dim in WIDTHS.items()}
    tables = Tables(schema, ["user_id", "item_id"], sets=sets)
    assert [tables.dim("user_id", table_set=name) for name in sets] == [16, 32, 64]
    assert len(list(tables.parameters())) == 6
    tasks = [f"task_{place}" for place in range(num_tasks)]
    experts = {name: ExpertConfig(tables=name) for name in sets}
    access = plan_access(experts, tasks=tasks, streams=tasks, reads={}, trains={})
    merge = Merge(access, config=MergeConfig(kind="gate"), gate_widths=list(WIDTHS.values()))
    assert access.reads.shape == (num_tasks, 3)
    assert len(merge.gates) == num_tasks
    fields = [torch.randn(5, dim) for dim in WIDTHS.values()]
    found, weights = merged(merge, torch.randn(5, 3, 8), fields)
    assert found.shape == (5, num_tasks, 8)
    torch.testing.assert_close(weights.sum(2), torch.ones(5, num_tasks))


class Asymmetric(torch.nn.Module):
    """Users and items in a narrow and a wide set, one expert each, a gate and a head a task."""

    def __init__(self, *, narrow=8, wide=32, ids=100):
        super().__init__()
        self.dims = (narrow, wide)
        self.users, self.items = (
            torch.nn.ModuleList(torch.nn.Embedding(ids, dim) for dim in self.dims) for _ in range(2)
        )
        names = ("narrow", "wide")
        config = MixConfig(
            experts={
                name: ExpertConfig(
                    tables=name, interaction=InteractionConfig(layers=1), hidden=(32,)
                )
                for name in names
            },
            merge=MergeConfig(kind="gate", per_task=True),
            hidden=(16,),
        )
        tasks = ["big", "small"]
        self.mix = MixTower(
            {
                name: SetLayout(user=(("user", dim),), item=(("item", dim),))
                for name, dim in zip(names, self.dims, strict=True)
            },
            plan_access(config.experts, tasks=tasks, streams=tasks, reads={}, trains={}),
            config=config,
            domains=["only"],
            streams=tasks,
            dropout=0.0,
            spectral=0.0,
        )
        self.heads = torch.nn.Linear(16, 1)

    def forward(self, user, item):
        """Logits (B, 2) and weights (B, 2, 2)."""
        sides = [
            torch.cat([table(ids) for table in tables], dim=1)
            for tables, ids in ((self.users, user), (self.items, item))
        ]
        mixed = self.mix(*sides, torch.zeros_like(user))
        return self.heads(mixed.top.relu()).squeeze(2), mixed.weights


def train(model, labels, *, masks=None, steps=60, rows=512, ids=100):
    """Adam on uniform pairs; ``labels`` (ids, ids, 2), ``masks`` the pairs that have a label."""
    masks = torch.ones_like(labels) if masks is None else masks
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        user, item = torch.randint(ids, (2, rows))
        logits, _ = model(user, item)
        loss = F.binary_cross_entropy_with_logits(
            logits, labels[user, item], weight=masks[user, item], reduction="sum"
        )
        adam.zero_grad()
        (loss / rows).backward()
        adam.step()


def test_gates_of_conflicting_tasks_part():
    model = Asymmetric()
    first = torch.randn(100, 1) @ torch.randn(1, 100) > 0
    gates = model.mix.branches["only"].merge.gates
    gates[1].load_state_dict(gates[0].state_dict())
    user, item = torch.randint(100, (2, 400))
    with torch.no_grad():
        _, weights = model(user, item)
        assert torch.equal(weights[:, 0], weights[:, 1])
    train(model, torch.stack([first, ~first], dim=2).float())
    with torch.no_grad():
        _, weights = model(user, item)
    assert (weights[:, 0] - weights[:, 1]).abs().mean() > 0.05


def test_masking_the_wide_set_hurts_the_big_task_more():
    """The big task needs width and has every label, the small one is additive and has 5 % of them.

    On five seeds the wide set is worth 0.27 to 0.32 AUC to the big task and 0.10 to 0.17 to the
    small one, the narrow set 0.03 to 0.06 to either.
    """
    big = torch.randn(100, 8) @ torch.randn(8, 100) > 0
    small = torch.randn(100, 1) + torch.randn(1, 100) > 0
    labels = torch.stack([big, small], dim=2).float()
    masks = torch.ones_like(labels)
    masks[:, :, 1] = (torch.rand(100, 100) < 0.05).float()
    model = Asymmetric(narrow=8, wide=32)
    train(model, labels, masks=masks, steps=120)
    user, item = torch.randint(100, (2, 4000))

    def aucs(*, masked=None):
        kept = copy.deepcopy(model)
        if masked is not None:
            for tables in (kept.users, kept.items):
                tables[masked].weight.data.zero_()
        with torch.no_grad():
            logits, _ = kept(user, item)
        return [roc_auc_score(labels[user, item, task], logits[:, task]) for task in range(2)]

    whole, narrow_off, wide_off = aucs(), aucs(masked=0), aucs(masked=1)
    assert min(whole) > 0.7
    drops = [before - after for before, after in zip(whole, wide_off, strict=True)]
    assert drops[0] > drops[1] + 0.05
    assert drops[0] > 0.2
    assert whole[0] - narrow_off[0] < 0.1, "the big task has not settled on the narrow set"
