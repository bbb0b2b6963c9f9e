"""A batch moves to another device as a whole."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from lfm4ads.data.index import open_dataset
from lfm4ads.data.reader import Reader, ReaderConfig
from tests.unit.data.states import one_rank
from tests.worlds import write_tiny

DAY = 20260101


@pytest.fixture
def batch(tmp_path):
    dataset = open_dataset(write_tiny(tmp_path, days=1, rows=20), one_rank())
    config = ReaderConfig(batch_size=32, lanes=2)
    batch = next(Reader(dataset, config=config, ranks=one_rank(), seed=0).day(DAY))
    batch.reps["user.ur"] = torch.ones(len(batch), 3)
    batch.present["user.ur"] = torch.ones(len(batch))
    return batch


def test_its_length_counts_padding_too(batch):
    assert len(batch) == 32
    assert int(batch.valid.sum()) == 20


def test_on_the_cpu_it_stays(batch):
    assert batch.to(torch.device("cpu")) is batch


def test_every_tensor_moves(batch):
    """The meta device holds shapes alone, so this needs no other hardware."""
    moved = batch.to(torch.device("meta"))
    assert moved.day == batch.day
    tensors = [getattr(moved, part.name) for part in fields(moved)]
    tensors += [moved.sparse.values(), moved.sparse.lengths()]
    tensors += [*moved.reps.values(), *moved.present.values(), *moved.ages.values()]
    found = [one for one in tensors if isinstance(one, Tensor)]
    assert len(found) == 11 + 5
    assert {one.device.type for one in found} == {"meta"}
    assert moved.numbers.shape == batch.numbers.shape
    assert moved.sparse.keys() == batch.sparse.keys()
    assert batch.numbers.device.type == "cpu", "the batch itself stays where it was"
    assert batch.reps["user.ur"].device.type == "cpu"


@pytest.mark.gpu
def test_it_arrives_whole(batch):
    there = batch.to(torch.device("cuda"), non_blocking=True)
    back = there.to(torch.device("cuda"))
    torch.cuda.synchronize()
    assert torch.equal(back.numbers.cpu(), batch.numbers)
    assert torch.equal(back.sparse.values().cpu(), batch.sparse.values())
    assert torch.equal(back.reps["user.ur"].cpu(), batch.reps["user.ur"])
