"""STEM's tables on several ranks: a task's step leaves the rows and the state of the others."""

import numpy as np
import pytest
import torch

from lfm4ads.model.config import LfmConfig, MultitaskConfig
from lfm4ads.model.multitask import expand_multitask
from lfm4ads.nn.branch import MixConfig
from lfm4ads.nn.tower import TowerConfig
from lfm4ads.shard.table_state import save_form, table_cuts
from lfm4ads.train.losses import masked_bce
from tests.batches import read_batches
from tests.gloo import run_ranks
from tests.multiproc.jobs import BATCH_SIZE, build
from tests.multiproc.weights import join_weights, local_weights, tensors_of
from tests.worlds import write_tiny

pytestmark = pytest.mark.multiproc
TASKS = ("click", "long_view", "conversion")
STEM = expand_multitask(
    LfmConfig(
        context="user",
        tower=TowerConfig(rep_dim=8, hidden=(16,)),
        mix=MixConfig(hidden=(8,)),
        multitask=MultitaskConfig(kind="stem", hidden=(12,), gate_hidden=(6,), layers=2),
    ),
    tasks=TASKS,
)


def step(sharded, batch, *, weights):
    weights_BT = torch.tensor(weights).expand(len(batch), -1)
    loss = masked_bce(sharded.model(batch).logits, batch, weights_BT=weights_BT) / BATCH_SIZE
    sharded.step(loss * sharded.ranks.world)


def body(ranks, folder, place):
    batch = read_batches(folder, ranks=ranks)[0]
    found = {}
    for name, weights in {"start": None, "joint": [1.0] * 3, "click": [1.0, 0.0, 0.0]}.items():
        sharded = build(folder, ranks, place=place, model=STEM)
        if weights is not None:
            step(sharded, batch, weights=weights)
        state = tensors_of(save_form(sharded, table_cuts(sharded)))
        found[name] = local_weights(sharded), {key: one.numpy() for key, one in state.items()}
    return found


@pytest.mark.parametrize("place", ["table_wise", "row_wise"])
@pytest.mark.parametrize("world", [1, 2])
def test_a_step_on_a_task_leaves_the_tables_and_the_state_of_the_others(tmp_path, world, place):
    write_tiny(tmp_path)
    found = run_ranks(body, world, tmp_path, place)
    start, joint, click = (
        {
            name: value
            for name, value in join_weights([one[run][0] for one in found]).items()
            if name.startswith("tables.")
        }
        for run in ("start", "joint", "click")
    )
    own = [name for name in start if ".click/" in name]
    others = [name for name in start if ".long_view/" in name or ".conversion/" in name]
    assert own
    assert others
    for name in own:
        assert not np.array_equal(click[name], start[name])
        # The strongest test of all-forward, task-specific backward: in the joint step, too.
        np.testing.assert_allclose(joint[name], click[name], rtol=0, atol=1e-7)
    for name in others:
        np.testing.assert_array_equal(click[name], start[name])
        assert not np.array_equal(joint[name], start[name])
    for one in found:
        for key, value in one["click"][1].items():
            still = "long_view" in key or "conversion" in key
            assert not (still and value.any()), key
    moved = {key for one in found for key, value in one["click"][1].items() if value.any()}
    assert any("click" in key for key in moved)
    assert any("shared" in key for key in moved)
