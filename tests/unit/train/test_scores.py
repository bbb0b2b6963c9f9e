"""Figures by task and scenario, and the file of scores."""

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.metrics.binary import BinaryMetrics, figures_json
from lfm4ads.train.scores import (
    ScoreFile,
    Scores,
    figure_rows,
    mean_auc,
    score_pass,
    weighted_scenario_auc,
)
from tests.batches import one_rank

TASKS = ["conversion", "click"]


def logits_of(batch):
    """A score of TASKS that depends on the row alone and knows something of its labels."""
    noise = torch.sin(batch.row_id.unsqueeze(1) * torch.tensor([1.7, 2.3]))
    return (noise + 0.5 * batch.labels[:, [2, 0]]).float()


def write_scores(path, schema, batches, *, forward=logits_of):
    with ExitStack() as stack:
        file = ScoreFile(path, schema, TASKS, stack=stack)
        count = score_pass(batches, forward=forward, sinks=[file.update], ranks=one_rank())
        assert not path.exists(), "it appears when it is complete"
    return count


def figures_of(auc, *, rows=100, positives=10):
    """Figures with a wanted AUC: that many of the pairs are in order."""
    metrics = BinaryMetrics()
    labels = np.arange(rows) < positives
    logits = np.zeros(rows, np.float32)
    if auc is None:
        labels[:] = False
    else:
        above = round(positives * auc)
        logits[:positives] = np.where(np.arange(positives) < above, 1, -1)
    metrics.update(logits, labels=labels, users=np.zeros(rows, np.int64))
    return metrics.reduce(one_rank())


def test_a_file_holds_valid_rows_with_nulls_for_labels_that_do_not_exist(schema, batches, tmp_path):
    path = tmp_path / "deep" / "part.parquet"
    count = write_scores(path, schema, batches)
    table = pq.read_table(path)
    assert table.column_names == [
        "row_id", "user", "scenario", "day",
        "label_conversion", "label_click", "logit_conversion", "logit_click",
    ]  # fmt: skip
    assert count == table.num_rows == 300
    found = {row["row_id"]: row for row in table.to_pylist()}
    assert len(found) == 300
    assert {str(table.schema.field(name).type) for name in ("label_click", "label_conversion")} == {
        "int8"
    }
    nulls = 0
    for batch in batches:
        scores = logits_of(batch)
        for row in torch.nonzero(batch.valid).squeeze(1).tolist():
            one = found[batch.row_id[row].item()]
            assert one["user"] == batch.user[row]
            assert one["scenario"] == batch.scenario[row]
            assert one["day"] == batch.day
            for position, (task, column) in enumerate((("conversion", 2), ("click", 0))):
                assert one[f"logit_{task}"] == scores[row, position].item()
                label = one[f"label_{task}"]
                if batch.masks[row, column]:
                    assert label == batch.labels[row, column].item()
                else:
                    assert label is None
                    nulls += 1
    assert nulls == int((1 - torch.cat([one.masks[one.valid] for one in batches])[:, 2]).sum()) > 0


def test_a_batch_without_valid_rows_adds_none(schema, batches, tmp_path):
    batch = batches[0]
    batch.valid = torch.zeros_like(batch.valid)
    with ExitStack() as stack:
        ScoreFile(tmp_path / "x", schema, TASKS, stack=stack).update(
            logits_of(batch).numpy(), batch
        )
    assert pq.read_table(tmp_path / "x").num_rows == 0


@pytest.mark.parametrize("fault", ["not finite", "reader"])
def test_nothing_is_left_behind_when_scoring_fails(schema, batches, tmp_path, fault):
    path = tmp_path / "part.parquet"

    def forward(batch):
        bad = fault == "not finite" and batch is batches[2]
        return logits_of(batch) * (float("nan") if bad else 1)

    def read():
        yield from batches[:3]
        if fault == "reader":
            raise UserError("the file is torn; write it again")

    words = {"not finite": "a score of day 20260101 is not finite; train again", "reader": "torn"}
    with pytest.raises(UserError, match=words[fault]):
        write_scores(path, schema, read(), forward=forward)
    assert list(tmp_path.iterdir()) == []


def test_scoring_builds_no_graph(batches):
    weight = torch.ones(2, requires_grad=True)
    seen = []

    def forward(batch):
        seen.append(logits_of(batch) * weight)
        return seen[-1]

    score_pass(batches, forward=forward, sinks=[], ranks=one_rank())
    assert len(seen) == 5
    assert not any(one.requires_grad for one in seen)


def test_figures_become_rows_of_the_report(schema, batches):
    scores = Scores(schema, TASKS)
    score_pass(batches, forward=logits_of, sinks=[scores.update], ranks=one_rank())
    figures = scores.reduce(one_rank())
    # Scenarios 1 and 2 are those of domain ads, the only one with conversions.
    assert set(figures) == {
        ("conversion", "1"), ("conversion", "2"), ("conversion", "all"),
        ("click", "0"), ("click", "1"), ("click", "2"), ("click", "all"),
    }  # fmt: skip
    rows = figure_rows(figures, split="test")
    assert len(rows) == 7
    for row in rows:
        one = figures[row["task"], row["scenario"]]
        assert row["split"] == "test"
        assert (row["auc"], row["rows"], row["gauc"]) == (one.auc, one.rows, one.gauc)
    assert (
        sum(row["rows"] for row in rows if row["task"] == "click" and row["scenario"] != "all")
        == 300
    )


def test_one_scenario_has_the_figures_of_all_its_rows(schema, batches):
    by_scenario, as_one = Scores(schema, TASKS), Scores(schema, TASKS)
    for batch in batches:
        by_scenario.update(logits_of(batch).numpy(), batch)
        everywhere = replace(batch, scenario=torch.full_like(batch.scenario, 1))
        as_one.update(logits_of(batch).numpy(), everywhere)
    wanted, found = by_scenario.reduce(one_rank()), as_one.reduce(one_rank())
    for task in TASKS:
        assert found[task, "1"] == found[task, "all"]
        mine, other = figures_json(found[task, "all"]), figures_json(wanted[task, "all"])
        assert mine == pytest.approx(other, rel=1e-12)


def test_without_rows_figures_are_undefined_and_no_scenario_is_named(schema):
    figures = Scores(schema, TASKS).reduce(one_rank())
    assert set(figures) == {("conversion", "all"), ("click", "all")}
    assert figures["click", "all"].auc is None
    assert mean_auc(figures, monitor="") == 0.5


def test_scenarios_weigh_as_many_positives_as_they_have():
    figures = {
        ("click", "0"): figures_of(0.6, positives=10),
        ("click", "1"): figures_of(0.9, positives=40),
        ("click", "2"): figures_of(None),
        ("click", "all"): figures_of(0.2),
        ("other", "0"): figures_of(0.1, positives=10),
    }
    # A positive on top wins every pair, one below loses every pair.
    assert figures["click", "0"].auc == pytest.approx(0.6)
    wanted = (0.6 * 10 + 0.9 * 40) / 50
    assert weighted_scenario_auc(figures, task="click") == pytest.approx(wanted)
    assert weighted_scenario_auc(figures, task="other") == pytest.approx(0.1)
    undefined = {("click", "0"): figures_of(None), ("click", "all"): figures_of(0.9)}
    assert weighted_scenario_auc(undefined, task="click") == 0.5


def test_the_monitored_task_or_the_mean_over_tasks_decides():
    figures = {
        ("click", "all"): figures_of(0.6),
        ("like", "all"): figures_of(0.8),
        ("share", "all"): figures_of(None),
        ("click", "1"): figures_of(0.1),
    }
    assert mean_auc(figures, monitor="click") == pytest.approx(0.6)
    assert mean_auc(figures, monitor="") == pytest.approx(0.7)
    assert mean_auc(figures, monitor="", scenario="1") == pytest.approx(0.1)
    assert mean_auc(figures, monitor="share") == 0.5
