"""prepare -> pretrain -> dump -> transfer -> report on two ranks, and what each stage leaves."""

import math

import numpy as np
import pyarrow.compute as pc
import pytest
from sklearn.metrics import roc_auc_score

from tests.gloo import run_ranks
from tests.pipeline.jobs import SECONDS, do_with_rates
from tests.pipeline.read import (
    SIDES,
    column,
    dataset_rows,
    predictions,
    read_json,
    read_lines,
    rep_rows,
)

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(SECONDS + 100)]

DAYS = range(20260101, 20260107)
CHECKPOINTS = range(20260102, 20260107)
ARMS = ("vanilla", "sum", "adapter", "module")
SPLITS = {"valid": 20260105, "test": 20260106}
FIGURES = {"auc", "auc_low", "auc_high", "gauc", "log_loss", "normalized_entropy", "calibration"}
COUNTS = {"rows", "positives"}
BY = {"arm", "seed", "task", "scenario", "split"}


@pytest.fixture(scope="module")
def report(story):
    return read_json(story.folder / "report.json")


def assert_finite(value, where=""):
    if isinstance(value, dict):
        for key, one in value.items():
            assert_finite(one, f"{where}.{key}")
    elif isinstance(value, list):
        for position, one in enumerate(value):
            assert_finite(one, f"{where}[{position}]")
    elif isinstance(value, float):
        assert math.isfinite(value), where


def test_prepare_leaves_a_dataset(data):
    made = read_json(data / "dataset.json")
    assert (data / "schema.yaml").is_file()
    for day in DAYS:
        (rows,) = {
            len(dataset_rows(folder, [day], ["row_id"])) for folder in (data, data / "oracle")
        }
        assert rows == made["rows_per_day"][str(day)] > 500


def test_pretrain_leaves_a_checkpoint_a_day(story):
    run = story.pretrain
    assert (run / "config.yaml").is_file()
    made = read_json(run / "report.json")
    assert_finite(made)
    assert (made["stage"], made["upstream"]) == ("pretrain", story.version)
    for day in CHECKPOINTS:
        meta = read_json(run / "checkpoints" / f"day={day}" / "meta.json")
        assert (meta["upstream"], meta["day"], meta["seen_through"]) == (story.version, day, day)
        manifest = read_json(run / "checkpoints" / f"day={day}" / "manifest.json")
        assert {"__0_0.distcp", "__1_0.distcp", "meta.json"} <= set(manifest["files"])
    scored = {(row["day"], row["task"]) for row in made["metrics"] if row["scenario"] == "all"}
    wanted = {(d, t) for d in CHECKPOINTS[1:] for t in ("click", "long_view", "conversion")}
    assert scored == wanted
    steps = [line["step"] for line in read_lines(run / "metrics.jsonl")]
    assert steps == sorted(steps)
    assert steps[-1] == made["steps"] == 24


def test_the_loss_falls(story):
    lines = read_lines(story.pretrain / "metrics.jsonl")
    losses = [line["value"] for line in lines if line["name"] == "loss"]
    assert len(losses) == len(DAYS)
    assert losses[-1] < 0.95 * losses[0]


def test_dump_leaves_a_snapshot_a_day_of_every_key_so_far(story):
    names = {"user": {"ur"}, "item": {"ir"}}
    crosses = {"cr_content_top_1", "cr_ads_top_1"}
    for as_of in CHECKPOINTS:
        manifest = read_json(story.snapshot(as_of) / "manifest.json")
        assert (manifest["upstream"], manifest["as_of"]) == (story.version, as_of)
        assert manifest["trained_through"] == manifest["checkpoint_day"] == as_of
        seen = dataset_rows(story.data, [day for day in DAYS if day <= as_of], ["user", "item"])
        for side in SIDES:
            rows = rep_rows(story.snapshot(as_of), side)
            keys, counts = np.unique(seen[side].to_numpy(), return_counts=True)
            np.testing.assert_array_equal(rows["key"].to_numpy(), keys)
            np.testing.assert_array_equal(rows["events"].to_numpy(), counts)
            here = {spec["name"] for spec in manifest["representations"] if spec["side"] == side}
            assert here == names[side] | crosses
            for name in here:
                assert np.isfinite(column(rows, name)).all()
            latest = column(rows, *names[side])
            assert (latest.std(axis=0) > 0).any(), "all keys have one vector"


@pytest.mark.parametrize("arm", ARMS)
def test_transfer_leaves_a_run_an_arm(story, arm):
    run = story.transfer / arm / "seed-0"
    assert (run / "config.yaml").is_file()
    made = read_json(run / "report.json")
    assert_finite(made)
    wanted = ("transfer", arm, 0, story.version)
    assert tuple(made[key] for key in ("stage", "arm", "seed", "upstream")) == wanted
    names = {line["name"] for line in read_lines(run / "metrics.jsonl")}
    assert {"monitor/click", "loss/20260103", "loss/20260104", "auc/click/all"} <= names
    for row in made["metrics"]:
        assert row.keys() == {"split", "task", "scenario"} | FIGURES | COUNTS


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(("split", "day"), SPLITS.items())
def test_every_ads_row_of_a_split_is_scored_once_and_as_reported(story, arm, split, day):
    run = story.transfer / arm / "seed-0"
    rows = predictions(run, split)
    columns = ["row_id", "user", "scenario", "domain", "click"]
    log = dataset_rows(story.data, [day], columns)
    log = log.filter(pc.equal(log["domain"], 1)).sort_by("row_id")
    assert rows["row_id"].to_pylist() == log["row_id"].to_pylist()
    assert rows["user"].to_pylist() == log["user"].to_pylist()
    assert rows["scenario"].to_pylist() == log["scenario"].to_pylist()
    assert rows["label_click"].to_pylist() == log["click"].to_pylist()
    assert set(rows["day"].to_pylist()) == {day}
    exact = roc_auc_score(rows["label_click"].to_numpy(), rows["logit_click"].to_numpy())
    (reported,) = (
        row["auc"]
        for row in read_json(run / "report.json")["metrics"]
        if (row["split"], row["task"], row["scenario"]) == (split, "click", "all")
    )
    assert reported == pytest.approx(exact, abs=1e-6)


def test_report_has_what_it_promises(report):
    assert report["schema_version"] == 1
    assert_finite(report)
    rows = report["arms"]
    assert all(row.keys() >= BY | FIGURES | COUNTS for row in rows)
    assert {row["arm"] for row in rows} == {*ARMS, "oracle"}
    assert {row["split"] for row in rows} == set(SPLITS)
    scenarios = {row["scenario"] for row in rows}
    assert "all" in scenarios
    assert all(one == "all" or one.isdigit() for one in scenarios)
    for row in rows:
        if row["scenario"] == "all":
            assert None not in (row[name] for name in FIGURES | COUNTS)
            assert row["auc_low"] < row["auc"] < row["auc_high"]
            assert 0 < row["positives"] < row["rows"]


def test_report_pairs_every_arm_with_the_baseline(report):
    lifts = report["lifts"]
    wanted = {"arm", "baseline", "task", "scenario", "delta_auc", "low", "high"}
    assert all(row.keys() >= wanted for row in lifts)
    assert {row["baseline"] for row in lifts} == {"vanilla"}
    pooled = {row["arm"]: row for row in lifts if row["scenario"] == "all"}
    assert set(pooled) == {*ARMS[1:], "oracle"}
    aucs = {
        row["arm"]: row["auc"]
        for row in report["arms"]
        if (row["split"], row["scenario"]) == ("test", "all")
    }
    for arm, row in pooled.items():
        assert row["low"] < row["delta_auc"] < row["high"]
        assert row["delta_auc"] == pytest.approx(aucs[arm] - aucs["vanilla"], abs=1e-6)
    assert aucs["oracle"] == max(aucs.values())
    assert pooled["oracle"]["low"] > 0


def test_report_has_a_page(story):
    page = (story.folder / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    for arm in (*ARMS, "oracle"):
        assert arm in page
    assert list((story.folder / "figures").glob("*.svg"))


def test_rates_go_on_over_the_days_and_passes_of_a_fit(story, tmp_path):
    one = story.transfer_job(output=tmp_path / "rates", only=["vanilla"])
    (steps,) = run_ranks(do_with_rates, 1, one, seconds=SECONDS)
    assert steps == list(range(len(steps)))
    assert len(steps) > 4, "two days, at least one pass"
