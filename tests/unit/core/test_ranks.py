"""Ranks agree, and arrays reach each other whole, on any number of them."""

import os
import signal

import numpy as np
import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.core.ranks import open_ranks
from lfm4ads.core.signals import StopSignal
from tests.gloo import run_ranks
from tests.unit.data.states import one_rank

DTYPES = ("int8", "uint8", "bool", "int32", "int64", "uint64", "float16", "float32", "float64")
SHAPES = ((), (3,), (2, 2))
BIGGEST = 2**63 - 1


def some(rows, *, dtype, shape, seed):
    """Return an array (rows, *shape) of any bits of a dtype, large ones among them."""
    drawn = np.random.default_rng(seed).integers(0, 256, (rows, *shape), dtype=np.uint8)
    if dtype == "bool":
        return drawn > 127
    return (drawn.astype(dtype) * np.asarray(BIGGEST // 255 if "64" in dtype else 1, dtype)).astype(
        dtype
    )


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)


def check_sum(ranks):
    for dtype in ("int64", "int32", "float32", "float64"):
        mine = np.arange(6, dtype=dtype).reshape(2, 3) * (ranks.rank + 1)
        kept = mine.copy()
        total = ranks.sum(mine)
        factor = ranks.world * (ranks.world + 1) // 2
        assert same(total, np.arange(6, dtype=dtype).reshape(2, 3) * np.asarray(factor, dtype))
        assert same(mine, kept), "what was given stays as it is"
        total += 1
        assert same(mine, kept)
    exact = ranks.sum(np.array([2**53 + 1 if ranks.is_first else 0]))
    assert exact.tolist() == [2**53 + 1]


def check_any(ranks):
    assert not ranks.any(False)
    for one in range(ranks.world):
        assert ranks.any(ranks.rank == one)
    assert ranks.any(True)


def check_gather_and_exchange(ranks):
    for dtype in DTYPES:
        for shape in SHAPES:
            # Lengths differ; rank 0 has none.
            gathered = ranks.gather(some(3 * ranks.rank, dtype=dtype, shape=shape, seed=ranks.rank))
            assert len(gathered) == ranks.world
            for sender, array in enumerate(gathered):
                assert same(array, some(3 * sender, dtype=dtype, shape=shape, seed=sender))
            parts = [
                some((ranks.rank + 2 * to) % 4, dtype=dtype, shape=shape, seed=10 * ranks.rank + to)
                for to in range(ranks.world)
            ]
            for sender, array in enumerate(ranks.exchange(parts)):
                expected = some(
                    (sender + 2 * ranks.rank) % 4,
                    dtype=dtype,
                    shape=shape,
                    seed=10 * sender + ranks.rank,
                )
                assert same(array, expected)
    strided = np.arange(20).reshape(4, 5)[:, ::2]
    for view in (strided, strided.T, strided[::-1]):
        assert all(same(array, view) for array in ranks.gather(view))
    with pytest.raises(ValueError, match=f"{ranks.world + 1} parts for {ranks.world} ranks"):
        ranks.exchange([strided] * (ranks.world + 1))


def check_texts(ranks):
    mine = "" if ranks.rank == 1 else f"ränk {ranks.rank} " * (ranks.rank + 1)
    texts = ranks.texts(mine)
    assert texts == ["" if r == 1 else f"ränk {r} " * (r + 1) for r in range(ranks.world)]
    assert ranks.broadcast(mine) == "ränk 0 "


def sentence_of(block):
    with pytest.raises(UserError) as caught:
        block()
    assert caught.value.everywhere
    return str(caught.value)


def check_agreement(ranks, folder):
    """Return the sentences this rank saw; the parent test compares them between ranks."""
    last = ranks.world - 1
    ranks.agree(None)
    with ranks.together():
        pass

    def fail_alone():
        with ranks.together():
            if ranks.rank == last:
                raise UserError(f"rank {last} read a bad file")

    def fail_each():
        with ranks.together():
            raise UserError(f"fault {ranks.rank % 2}")

    def fail_of_disk():
        with ranks.together():
            if ranks.rank == last:
                (folder / "no" / "folder").mkdir()

    def fail_of_pipe():
        with ranks.together():
            raise OSError("gone")

    return [
        sentence_of(lambda: ranks.agree(UserError("told") if ranks.rank == last else None)),
        *(sentence_of(block) for block in (fail_alone, fail_each, fail_of_disk, fail_of_pipe)),
    ]


def body(ranks, folder):
    check_sum(ranks)
    check_any(ranks)
    check_gather_and_exchange(ranks)
    check_texts(ranks)
    ranks.barrier()
    return ranks.rank, check_agreement(ranks, folder)


@pytest.mark.multiproc
@pytest.mark.parametrize("world", [1, 2, 4])
def test_all_of_it(world, tmp_path):
    results = run_ranks(body, world, tmp_path)
    assert [rank for rank, _ in results] == list(range(world))
    both = "fault 0" if world == 1 else "fault 0; fault 1"
    for _, sentences in results:
        assert sentences == [
            "told",
            f"rank {world - 1} read a bad file",
            both,
            f"{tmp_path / 'no' / 'folder'}: No such file or directory",
            "input/output: gone",
        ]


def test_a_bug_is_not_made_a_sentence():
    with pytest.raises(KeyError), one_rank().together():
        raise KeyError("a bug")


def test_a_job_of_one_needs_no_environment(monkeypatch):
    monkeypatch.setenv("LFM4ADS_DEVICE", "cpu")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    try:
        with open_ranks() as ranks:
            assert (ranks.rank, ranks.world, ranks.is_first) == (0, 1, True)
            assert ranks.device == torch.device("cpu")
            assert ranks.sum(np.array([1.5])).tolist() == [1.5]
            tiny = torch.tensor(1e-30) * torch.tensor(1e-10)
            assert tiny.item() == 0.0, "denormal floats are flushed"
        assert not torch.distributed.is_initialized()
    finally:
        torch.set_flush_denormal(False)


def test_a_signal_is_remembered():
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for number, handler in former.items():
            stop = StopSignal()
            with stop.listening():
                assert not stop.is_set
                os.kill(os.getpid(), number)
                assert stop.is_set
            assert signal.getsignal(number) == handler
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
