"""The list of work of an upstream run."""

import pytest
import yaml

from lfm4ads.core.config import parse_config
from lfm4ads.core.errors import UserError
from lfm4ads.data.index import Dataset, RowGroup
from lfm4ads.data.schema import Schema
from lfm4ads.train.upstream import DaysConfig, Item, plan_work
from tests.worlds import SCHEMA

DAYS = (20260130, 20260131, 20260201, 20260203, 20260204)
SOON = ("click", "long_view")


def dataset_of(path, *, second_wait=False, only_waiting=False):
    """Return a dataset of the tiny schema: conversion takes time, and order if asked for."""
    words = yaml.safe_load(SCHEMA)
    waiting = words["tasks"]["conversion"]
    if second_wait:
        words["tasks"]["order"] = waiting
    if only_waiting:
        words["tasks"] = {"conversion": waiting}
    group = RowGroup(file="a.parquet", index=0, rows=1, last_time=0)
    schema = parse_config(Schema, yaml.safe_dump(words))
    return Dataset(path=path, schema=schema, days=dict.fromkeys(DAYS, (group,)))


@pytest.fixture
def dataset(tmp_path):
    return dataset_of(tmp_path)


def words(work):
    return [f"{item.kind} {item.day} {item.epoch}" for item in work.items]


def trained(work):
    """Return (kind, last digits of the day, tasks) of what trains and of what keeps the result."""
    return [
        (item.kind, item.day % 10000, item.tasks)
        for item in work.items
        if item.kind in ("train", "late", "settle", "keep")
    ]


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


def test_a_waiting_task_is_trained_on_a_days_rows_so_many_days_later(dataset):
    config = DaysConfig(
        first=20260130, base_last=20260201, last=20260204, wait_days={"conversion": 2}
    )
    assert trained(plan_work(config, dataset)) == [
        # Of the base only the first day's wait is over when the base ends.
        ("train", 130, None),
        ("train", 131, SOON),
        ("train", 201, SOON),
        ("settle", 201, None),
        ("train", 203, SOON),
        ("late", 131, ("conversion",)),
        ("keep", 203, None),
        ("train", 204, SOON),
        ("late", 201, ("conversion",)),
        ("keep", 204, None),
    ]


def test_waits_end_in_the_order_of_the_days_and_every_task_is_trained_on_every_day_once(tmp_path):
    waits = {"conversion": 1, "order": 3}
    config = DaysConfig(first=20260130, base_last=20260130, last=20260204, wait_days=waits)
    work = plan_work(config, dataset_of(tmp_path, second_wait=True))
    assert [one for one in trained(work) if one[0] == "late"] == [
        ("late", 130, ("conversion",)),
        ("late", 131, ("conversion",)),
        ("late", 130, ("order",)),
        ("late", 201, ("conversion",)),
        ("late", 131, ("order",)),
        ("late", 203, ("conversion",)),
    ]
    seen = [
        (task, item.day)
        for item in work.items
        if item.kind in ("train", "late")
        for task in item.tasks or (*SOON, "conversion", "order")
    ]
    assert len(seen) == len(set(seen))
    for place, day in enumerate(DAYS):
        for task, wait in {**dict.fromkeys(SOON, 0), **waits}.items():
            assert ((task, day) in seen) == (place + wait < len(DAYS)), (task, day)


def test_a_base_of_several_passes_leaves_the_waits_to_the_days_after_it(dataset):
    config = DaysConfig(
        first=20260130,
        base_last=20260131,
        last=20260203,
        max_epochs=2,
        wait_days={"conversion": 1},
    )
    items = plan_work(config, dataset).items
    base = [(item.day % 10000, item.epoch, item.tasks) for item in items if item.kind == "train"]
    assert base[:4] == [(130, 0, None), (131, 0, SOON), (130, 1, None), (131, 1, SOON)]
    late = [item.day for item in items if item.kind == "late"]
    assert late == [20260131, 20260201]


def test_a_day_with_nothing_to_train_is_only_scored_and_kept(tmp_path):
    config = DaysConfig(
        first=20260130, base_last=20260131, last=20260201, wait_days={"conversion": 1}
    )
    items = plan_work(config, dataset_of(tmp_path, only_waiting=True)).items
    assert [(item.kind, item.day % 10000) for item in items] == [
        ("train", 130),
        ("settle", 131),
        ("score", 201),
        ("late", 131),
        ("keep", 201),
    ]


def test_a_frozen_run_only_scores_what_comes_after_its_base(dataset):
    config = DaysConfig(
        first=20260130,
        base_last=20260131,
        last=20260204,
        frozen=True,
        wait_days={"conversion": 1},
    )
    assert words(plan_work(config, dataset)) == [
        "train 20260130 0",
        "train 20260131 0",
        "settle 20260131 0",
        "score 20260201 0",
        "score 20260203 0",
        "score 20260204 0",
    ]


@pytest.mark.parametrize("task", ["click", "buy"])
def test_only_tasks_whose_label_takes_time_wait(dataset, task):
    config = DaysConfig(first=20260130, base_last=20260131, last=20260204, wait_days={task: 1})
    wanted = f"days.wait_days names {task}; tasks whose label takes time are conversion"
    with pytest.raises(UserError) as caught:
        plan_work(config, dataset)
    assert (str(caught.value), caught.value.everywhere) == (wanted, True)


def test_a_wait_of_no_day_is_refused():
    with pytest.raises(ValueError, match=r"wait_days\.conversion must be at least 1, got 0"):
        DaysConfig(first=1, base_last=1, last=1, wait_days={"conversion": 0})


def test_passes_since_the_last_checkpoint_of_a_day(dataset):
    config = DaysConfig(
        first=20260130,
        base_last=20260131,
        last=20260203,
        max_epochs=2,
        wait_days={"conversion": 1},
    )
    work = plan_work(config, dataset)
    found = [
        [(one.kind, one.day % 10000, one.tasks) for one in work.passes_since_kept(index)]
        for index, item in enumerate(work.items)
        if item.kind in ("settle", "keep")
    ]
    assert found == [
        [("train", 130, None), ("train", 131, SOON)],
        [("train", 201, SOON), ("late", 131, ("conversion",))],
        [("train", 203, SOON), ("late", 201, ("conversion",))],
    ]
