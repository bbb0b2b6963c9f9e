"""A day is scored, then trained on; a task that waits comes to its day later. Everything is on."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from tests.pipeline.jobs import SECONDS
from tests.pipeline.read import column, dataset_rows, read_json

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(SECONDS + 100)]

BASE = (20260101, 20260102)
LATER = range(20260103, 20260107)
TASKS = ("click", "long_view", "conversion")


def scores(story, day):
    """Return the scored rows of a day, sorted by row id, whoever scored them."""
    parts = sorted((story.pretrain / "scores" / f"day={day}").glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts]).sort_by("row_id")


def test_no_row_is_trained_on_before_it_is_scored(full):
    for rank in full.events:
        pretrain = rank[0]
        assert pretrain[-1][0] == "end"
        for day in LATER:
            scored = [at for at, event in enumerate(pretrain) if event == ("score", day)]
            trained = [at for at, event in enumerate(pretrain) if event == ("train", day)]
            assert len(scored) == 1
            assert scored[0] < trained[0]
        assert not [event for event in pretrain if event[0] == "score" and event[1] in BASE]


def test_a_waiting_task_comes_to_its_day_one_day_later(full):
    for rank in full.events:
        work = [event[1:] for event in rank[0] if event[0] == "work"]
        wanted = [("train", BASE[0]), ("train", BASE[1]), ("settle", BASE[1])]
        for day in LATER:
            wanted += [("score", day), ("train", day), ("late", day - 1), ("keep", day)]
        assert work == wanted


def test_a_frozen_run_scores_with_the_weights_of_its_base(full):
    for rank in full.events:
        on, _, frozen = rank
        (kept,) = (event for event in frozen if event[0] == "kept")
        assert kept[2] == frozen[-1][2], "weights moved"
        kinds = [event[1] for event in frozen if event[0] == "work"]
        assert kinds == ["train", "train", "settle", *["score"] * len(LATER)]
        moved = [event[2] for event in on if event[0] == "kept"]
        assert len(set(moved)) == len(moved) == 1 + len(LATER)
        assert moved[0] == kept[2]
    checkpoints = (full.frozen.pretrain / "checkpoints").iterdir()
    assert [path.name for path in checkpoints] == [f"day={BASE[-1]}"]
    for day, same in ((LATER[0], True), (LATER[-1], False)):
        assert scores(full.story, day).equals(scores(full.frozen, day)) == same


@pytest.mark.parametrize("day", LATER)
def test_every_row_of_a_later_day_is_scored_once_with_its_final_labels(full, day):
    rows = scores(full.story, day)
    log = dataset_rows(full.story.data, [day], ["row_id", "user", "scenario", *TASKS])
    log = log.sort_by("row_id")
    assert rows.column_names == [
        *("row_id", "user", "scenario", "day"),
        *(f"{kind}_{task}" for kind in ("label", "logit", "variance", "score") for task in TASKS),
    ]
    for name in ("row_id", "user", "scenario"):
        assert rows[name].to_pylist() == log[name].to_pylist()
    for task in TASKS:
        labels = rows[f"label_{task}"].to_pylist()
        wanted = log[task].to_pylist()
        known = [label is not None for label in labels]
        assert any(known)
        assert [label for label in labels if label is not None] == [
            one for one, here in zip(wanted, known, strict=True) if here
        ]
    metrics = read_json(full.story.pretrain / "report.json")["metrics"]
    reported = {
        row["task"]: row["auc"]
        for row in metrics
        if row["day"] == day and row["scenario"] == "all" and row["split"] == "prequential"
    }
    assert reported.keys() == set(TASKS)
    clicks = column(rows, "label_click"), column(rows, "logit_click")
    assert reported["click"] == pytest.approx(roc_auc_score(*clicks), abs=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_a_score_to_rank_by_is_the_logit_and_half_its_spread(full, task):
    for day in LATER:
        rows = scores(full.story, day)
        logit, variance, score = (
            rows[f"{kind}_{task}"].to_numpy() for kind in ("logit", "variance", "score")
        )
        assert logit.dtype == np.float32
        # To the rounding of torch's square root, which is not numpy's.
        np.testing.assert_allclose(score, logit + 0.5 * np.sqrt(variance), rtol=0, atol=1e-7)
        assert variance.min() > 0
        assert len(np.unique(variance)) > len(variance) / 2
