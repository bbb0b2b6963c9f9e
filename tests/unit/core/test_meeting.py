"""Ranks of one start find one another, whatever an earlier start has left in the store."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from lfm4ads.core.errors import AbsentError
from lfm4ads.core.meeting import agree_on_name


def meet(store, world):
    with ThreadPoolExecutor(world) as pool:
        names = [
            pool.submit(agree_on_name, store, rank=rank, world=world, timeout_seconds=20)
            for rank in range(world)
        ]
        return {name.result() for name in names}


def test_every_start_has_a_name_of_its_own():
    store = HashStore()
    (first,), (second,) = meet(store, 4), meet(store, 4)
    assert first != second


def test_a_rank_of_an_earlier_start_is_not_taken_for_one_that_came():
    store = HashStore()
    meet(store, 2)
    with pytest.raises(AbsentError, match="ranks 1 did not come"):
        agree_on_name(store, rank=0, world=2, timeout_seconds=0.2)
    with pytest.raises(AbsentError, match="rank 1 heard nothing of rank 0"):
        agree_on_name(store, rank=1, world=2, timeout_seconds=0.2)
