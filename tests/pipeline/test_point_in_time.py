"""What a sample or an event is given was known before its day."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from lfm4ads.core.config import load_config
from lfm4ads.model.arm import ArmConfig
from lfm4ads.stages import transfer
from lfm4ads.train.arms import RunConfig, Sources, build_arm
from tests.gloo import run_ranks
from tests.pipeline.jobs import ROOT, SECONDS, do, run_jobs
from tests.pipeline.read import (
    SIDES,
    column,
    dataset_rows,
    predictions,
    rep_rows,
    rewrite_parts,
    with_vectors,
    write_meta,
)

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(SECONDS + 100)]

CHANGED = 20260103
TOWER = {"user": "ur", "item": "ir"}
CROSS = ("cr_content_top_1", "cr_ads_top_1")


@pytest.fixture(scope="module")
def changed(story, tmp_path_factory):
    """The story's dump with the weights of another day in one day's checkpoint."""
    changed = replace(story, folder=tmp_path_factory.mktemp("changed"))
    shutil.copytree(story.pretrain, changed.pretrain)
    checkpoints = changed.pretrain / "checkpoints"
    meta = (checkpoints / f"day={CHANGED}" / "meta.json").read_text()
    shutil.rmtree(checkpoints / f"day={CHANGED}")
    shutil.copytree(checkpoints / "day=20260106", checkpoints / f"day={CHANGED}")
    write_meta(checkpoints / f"day={CHANGED}", meta)
    run_jobs(2, changed.dump_job(last_as_of=20260104))
    return changed


def of(run, as_of, side, name):
    rows = rep_rows(run.snapshot(as_of), side)
    return column(rows, name), rows


@pytest.mark.parametrize("side", SIDES)
def test_a_days_events_are_folded_with_the_checkpoint_of_the_day_before(story, changed, side):
    for name in CROSS:
        before, _ = of(story, CHANGED, side, name)
        after, _ = of(changed, CHANGED, side, name)
        np.testing.assert_array_equal(before, after, err_msg=f"{name} of the day itself")
        before, rows = of(story, CHANGED + 1, side, name)
        after, _ = of(changed, CHANGED + 1, side, name)
        moved = (before != after).any(axis=1)
        assert moved.any(), f"{name} of the day after"
        # Keys without an event on the day after keep the sums they had.
        began = dataset_rows(story.data, [CHANGED + 1], ["time"])["time"][0].as_py()
        assert (column(rows, f"{name}_time")[moved] >= began).all()


@pytest.mark.parametrize("side", SIDES)
def test_towers_are_those_of_the_day_s_own_checkpoint(story, changed, side):
    before, rows = of(story, CHANGED, side, TOWER[side])
    after, _ = of(changed, CHANGED, side, TOWER[side])
    moved = (before != after).any(axis=1)
    began = dataset_rows(story.data, [CHANGED], ["time"])["time"][0].as_py()
    today = column(rows, f"{TOWER[side]}_time") >= began
    np.testing.assert_array_equal(moved, today)
    assert moved.any()
    assert not moved.all()


def fitter_of(ranks, words):
    """Return the arm module, built."""
    path = ROOT / "configs" / "transfer" / "debug.yaml"
    config = load_config(transfer.Config, [str(path), *words])
    setting = transfer._open(config, ranks)
    arm = RunConfig(
        name="module",
        arm=ArmConfig(module="logit"),
        seed=0,
        domain=config.domain,
        tasks=config.tasks,
        first_day=config.split.train_first,
        align_days=config.align_days,
        reader=config.reader,
        model=config.model,
        shard=config.shard,
    )
    sources = Sources(
        dataset=setting.dataset,
        reps=config.input.reps,
        version=setting.version,
        names=setting.names,
        upstream=setting.lineage.config,
        checkpoint=setting.checkpoint,
        snapshot=config.input.as_of,
    )
    return build_arm(arm, sources, ranks=ranks).fitter


def marks_of(ranks, words, days):
    """Return per day what the readers put on its rows, for training and scoring."""
    fitter = fitter_of(ranks, words)
    return [
        (
            day,
            {
                mark
                for batch in reader.day(day)
                for name in ("user.ur", "item.ir")
                for mark in batch.reps[name][batch.present[name] > 0].unique().tolist()
            },
        )
        for reader in (fitter.trainer, fitter.scorer)
        for day in days
    ]


def values_of(ranks, words, days):
    """Return per day the vector of every user that the scorer reads."""
    fitter = fitter_of(ranks, words)
    return [
        {
            int(user): vector.tolist()
            for batch in fitter.scorer.day(day)
            for user, vector, has in zip(
                batch.user, batch.reps["user.ur"], batch.present["user.ur"], strict=True
            )
            if has
        }
        for day in days
    ]


def test_rows_of_a_day_read_vectors_of_the_day_before(story, tmp_path):
    marked = replace(story, folder=tmp_path)
    shutil.copytree(story.reps, marked.reps)
    days = range(20260103, 20260107)
    for as_of in range(20260102, 20260107):

        def mark(table, as_of=as_of):
            for name in {"ur", "ir"} & set(table.column_names):
                table = with_vectors(table, name, lambda old: np.full_like(old, as_of % 100))
            return table

        rewrite_parts(marked.snapshot(as_of), mark)
    one = marked.transfer_job(input__pretrain=story.pretrain, align_days=False)
    for found in run_ranks(marks_of, 2, one.words, list(days), seconds=SECONDS):
        assert found == 2 * [(day, {(day - 1) % 100}) for day in days]


def test_what_came_after_the_day_before_the_test_changes_no_score(story, tmp_path):
    """Vectors of the last validation day reach the test day alone, those of the test day none."""
    later = replace(story, folder=tmp_path)
    shutil.copytree(story.reps, later.reps)
    shutil.rmtree(later.snapshot(20260106))

    def scramble(table):
        for name in set(table.column_names) & {*TOWER.values(), *CROSS}:
            table = with_vectors(table, name, lambda old: -np.roll(old, 1, axis=0))
        return table

    rewrite_parts(later.snapshot(20260105), scramble)
    run_jobs(2, later.transfer_job(input__pretrain=story.pretrain, only="[adapter]"))
    for split, same in (("valid", True), ("test", False)):
        one, two = (predictions(run.transfer / "adapter/seed-0", split) for run in (story, later))
        assert one["row_id"].equals(two["row_id"])
        assert one["logit_click"].equals(two["logit_click"]) == same, split


def test_a_dump_that_is_a_day_later_than_it_says_is_found_out(story, tmp_path):
    """Every snapshot takes the place of the one before it, with a manifest that says so."""
    shifted = replace(story, folder=tmp_path)
    shutil.copytree(story.reps, shifted.reps)
    for as_of in range(20260102, 20260106):
        shutil.rmtree(shifted.snapshot(as_of))
        shutil.copytree(story.snapshot(as_of + 1), shifted.snapshot(as_of))
        path = shifted.snapshot(as_of) / "manifest.json"
        text = path.read_text()
        for name in ("as_of", "checkpoint_day", "trained_through"):
            text = text.replace(f'"{name}": {as_of + 1}', f'"{name}": {as_of}')
        path.write_text(text)
    one = shifted.transfer_job(input__pretrain=story.pretrain, only="[adapter]")
    for ((sentence, _),) in run_ranks(do, 2, [one], seconds=SECONDS):
        assert "leaks the future" in sentence
        assert "a row of day 20260103" in sentence


def test_one_snapshot_for_all_days_is_read_when_it_is_asked_for(story, tmp_path):
    """As the public code does; the rows of all days then read the same vectors."""
    run = replace(story, folder=tmp_path)
    one = run.transfer_job(
        input__pretrain=story.pretrain, input__reps=story.reps, input__as_of=20260104
    )
    days = range(20260103, 20260107)
    tables = run_ranks(values_of, 1, one.words, list(days), seconds=SECONDS)[0]
    user = next(user for user in tables[0] if all(user in table for table in tables))
    assert len({tuple(table[user]) for table in tables}) == 1
    plain = run.transfer_job(input__pretrain=story.pretrain, input__reps=story.reps)
    tables = run_ranks(values_of, 1, plain.words, list(days), seconds=SECONDS)[0]
    assert len({tuple(table[user]) for table in tables}) > 1
