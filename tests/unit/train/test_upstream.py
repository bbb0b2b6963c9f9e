"""The list of work of an upstream run."""

import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.index import Dataset, RowGroup
from lfm4ads.train.upstream import DaysConfig, Item, plan_work

DAYS = (20260130, 20260131, 20260201, 20260203, 20260204)


@pytest.fixture
def dataset(tmp_path):
    group = RowGroup(file="a.parquet", index=0, rows=1, last_time=0)
    return Dataset(path=tmp_path, schema=None, days=dict.fromkeys(DAYS, (group,)))


def words(work):
    return [f"{item.kind} {item.day} {item.epoch}" for item in work.items]


def test_one_pass_needs_no_validation(dataset):
    work = plan_work(DaysConfig(first=20260130, base_last=20260201, last=20260204), dataset)
    assert words(work) == [
        "train 20260130 0",
        "train 20260131 0",
        "train 20260201 0",
        "settle 20260201 0",
        "score 20260203 0",
        "train 20260203 0",
        "keep 20260203 0",
        "score 20260204 0",
        "train 20260204 0",
        "keep 20260204 0",
    ]
    assert work.valid_days == ()
    assert work.settle_at() == 3


def test_many_passes_are_validated_on_the_days_after_the_base(dataset):
    config = DaysConfig(
        first=20260131, base_last=20260201, last=20260204, max_epochs=2, valid_days=2
    )
    work = plan_work(config, dataset)
    assert words(work)[:7] == [
        "train 20260131 0",
        "train 20260201 0",
        "validate 20260201 0",
        "train 20260131 1",
        "train 20260201 1",
        "validate 20260201 1",
        "settle 20260201 0",
    ]
    assert work.valid_days == (20260203, 20260204)
    assert work.items[work.settle_at()] == Item("settle", 20260201)


def test_no_later_day_is_trained_on_before_it_is_scored_nor_base_day_scored(dataset):
    config = DaysConfig(first=20260130, base_last=20260131, last=20260204, max_epochs=3)
    work = plan_work(config, dataset)
    settle = work.settle_at()
    base, later = work.items[:settle], work.items[settle + 1 :]
    assert {item.day for item in base if item.kind == "train"} == {20260130, 20260131}
    assert {item.kind for item in base} == {"train", "validate"}
    assert [item.kind for item in later] == ["score", "train", "keep"] * 3
    assert [item.day for item in later] == sorted(item.day for item in later)
    assert sum(item.kind == "settle" for item in work.items) == 1


def test_a_run_may_end_with_its_base(dataset):
    work = plan_work(DaysConfig(first=20260130, base_last=20260130, last=20260130), dataset)
    assert words(work) == ["train 20260130 0", "settle 20260130 0"]


def test_too_few_days_to_validate_on_are_refused_in_a_sentence(dataset):
    config = DaysConfig(
        first=20260130, base_last=20260203, last=20260204, max_epochs=2, valid_days=2
    )
    wanted = (
        "days.valid_days is 2, but only 1 days? follow.* days.base_last 20260203; move base_last"
    )
    with pytest.raises(UserError, match=wanted) as caught:
        plan_work(config, dataset)
    assert caught.value.everywhere


@pytest.mark.parametrize("wrong", ["first", "base_last", "last"])
def test_days_that_do_not_exist_are_refused_in_a_sentence(dataset, wrong):
    days = {"first": 20260131, "base_last": 20260201, "last": 20260203}
    absent = {"first": 20260129, "base_last": 20260202, "last": 20260209}[wrong]
    with pytest.raises(UserError, match=f"has no day {absent}; it holds 20260130 to 20260204"):
        plan_work(DaysConfig(**{**days, wrong: absent}), dataset)


def test_impossible_days_are_refused():
    with pytest.raises(ValueError, match="first <= base_last <= last, got 3, 2, 4"):
        DaysConfig(first=3, base_last=2, last=4)
    with pytest.raises(ValueError, match="first <= base_last <= last, got 1, 3, 2"):
        DaysConfig(first=1, base_last=3, last=2)
    for wrong in ({"max_epochs": 0}, {"valid_days": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}.* at least 1"):
            DaysConfig(first=1, base_last=1, last=1, **wrong)
