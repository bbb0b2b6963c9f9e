"""`shard.pipelined` in the stages that train: the same run to the last bit."""

from dataclasses import replace

import pytest
import torch

from tests.pipeline.jobs import SECONDS, run_jobs, tensors_of
from tests.pipeline.read import predictions, read_json

pytestmark = [pytest.mark.multiproc, pytest.mark.slow, pytest.mark.timeout(2 * SECONDS)]
ARM = "adapter"


@pytest.fixture(scope="module")
def overlapped(story, tmp_path_factory):
    """Pretrain of the story, and one of its arms on its own representations."""
    other = replace(story, folder=tmp_path_factory.mktemp("pipelined"))
    words = {"shard__pipelined": True}
    transfer = story.transfer_job(output=other.transfer, only=f"[{ARM}]", **words)
    run_jobs(2, other.pretrain_job(**words), transfer)
    return other


def test_the_lineage_is_the_same(story, overlapped):
    name = "checkpoints/day=20260106/meta.json"
    one, two = (read_json(run.pretrain / name)["upstream"] for run in (story, overlapped))
    assert one == two


def test_every_tensor_of_the_last_checkpoint_is_the_same(story, overlapped, tmp_path):
    name = "checkpoints/day=20260106"
    one, two = (
        tensors_of(run.pretrain / name, at=tmp_path / str(i))
        for i, run in enumerate((story, overlapped))
    )
    assert one.keys() == two.keys()
    assert len(one) > 20
    assert [key for key in one if not torch.equal(one[key], two[key])] == []


def test_predictions_of_an_arm_are_the_same(story, overlapped):
    one, two = (predictions(run.transfer / ARM / "seed-0", "test") for run in (story, overlapped))
    assert one.num_rows > 100
    assert one.equals(two)
