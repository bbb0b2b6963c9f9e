"""What a job says when one of its ranks does not come to an exchange."""

import sys

import torch
import torch.distributed as dist

from lfm4ads.core import watch
from lfm4ads.core.watch import Place, explain, place_of
from tests.unit.data.states import one_rank


def place(rank, *, count=7, waits=True, call="all_reduce, called by agreed (x.py:1)", words=""):
    return Place(rank=rank, count=count, words=words, call=call, waits=waits)


def test_the_rank_that_is_elsewhere_is_named():
    places = [place(0, words="step 3"), place(1, waits=False, call="read (y.py:2)", words="step 3")]
    assert explain(places, world=2, seconds=600) == (
        "rank 1 did not arrive within 600 s where rank 0 waits: all_reduce, called by agreed"
        " (x.py:1), step 3; rank 1 is in read (y.py:2), step 3; if they need longer, set"
        " LFM4ADS_TIMEOUT_SECONDS"
    )


def test_a_rank_that_is_an_exchange_behind_is_missing_though_it_waits():
    places = [place(0), place(1), place(2, count=6, call="barrier, called by save (z.py:9)")]
    said = explain(places, world=3, seconds=1.5)
    assert said.startswith("rank 2 did not arrive within 1.5 s where ranks 0, 1 wait: all_reduce")
    assert "rank 2 is in barrier, called by save (z.py:9)" in said


def test_a_rank_that_does_not_answer_is_missing():
    said = explain([place(0), place(2)], world=3, seconds=60)
    assert said.startswith("rank 1 did not arrive within 60 s where ranks 0, 2 wait")
    assert "rank 1 gives no answer" in said


def test_ranks_that_wait_for_one_another_are_all_named():
    said = explain([place(0), place(1, call="wait (w.py:5)")], world=2, seconds=60)
    assert said.startswith("no rank came out of an exchange for 60 s: rank 0 in all_reduce")
    assert "rank 1 in wait (w.py:5)" in said


def test_of_a_thousand_missing_ranks_a_few_are_named():
    said = explain([place(0)], world=1000, seconds=60)
    assert "ranks 1, 2, 3, 4, 5, 6, 7, 8 and 991 more did not arrive" in said
    assert said.count("gives no answer") == 4
    assert len(said) < 500


def test_a_thread_in_an_exchange_waits_and_one_on_its_way_does_not(monkeypatch):
    seen = []

    def look(*_, **__):
        seen.append(place_of(sys._getframe(1), rank=0, count=0, words=""))

    here = place_of(sys._getframe(), rank=1, count=3, words="so")
    assert (here.rank, here.count, here.words, here.waits) == (1, 3, "so", False)
    assert "test_a_thread_in_an_exchange" in here.call
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        monkeypatch.setattr(dist.distributed_c10d, "_rank_not_in_group", look)
        dist.all_reduce(torch.zeros(1))
    finally:
        dist.destroy_process_group()
    assert seen[0].waits
    assert "all_reduce" in seen[0].call


def test_who_asked_is_named_whatever_the_checkout_is_called(monkeypatch):
    """With its .venv inside, a checkout's name is in the paths of torch too."""
    home = "/home/one/lfm4ads/"
    monkeypatch.setattr(watch, "_PACKAGE", f"{home}lfm4ads/")
    chain = (
        ("all_reduce", f"{home}.venv/lib/torch/distributed/distributed_c10d.py", "frame()"),
        ("sum", f"{home}lfm4ads/core/ranks.py", "all_reduce()"),
        ("agreed", f"{home}lfm4ads/train/loop.py", "sum()"),
    )
    names = {"frame": sys._getframe}
    for name, path, call in chain:
        exec(compile(f"def {name}():\n    return {call}", path, "exec"), names)
    found = place_of(names["agreed"](), rank=0, count=0, words="")
    assert found.waits
    assert found.call == "all_reduce, called by agreed (lfm4ads/train/loop.py:2)"


def test_a_job_without_a_watch_takes_its_notes():
    one_rank().at("step 1")
