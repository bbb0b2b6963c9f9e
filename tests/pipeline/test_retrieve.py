"""Standalone Retrieval on the debug world: what it leaves, on one rank and two, and once more."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from lfm4ads.stages import retrieve
from lfm4ads.train.index import load_index
from tests.gloo import run_ranks
from tests.pipeline.jobs import SECONDS, STAGES, do, job
from tests.pipeline.read import dataset_rows, predictions, read_json, read_lines, rep_rows

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(SECONDS + 100)]

ARMS = ("ir_ur", "ir_ur_cr", "retriever")
KS = (5, 20)
TRAIN, TEST = (20260103, 20260104), 20260106


@pytest.fixture(scope="module", autouse=True)
def _stage():
    """Jobs know the stage in this module's ranks too: they import it."""
    STAGES["retrieve"] = retrieve


def retrieve_job(story, output, **words):
    own = {"input__data": story.data, "input__reps": story.reps, "output": output, "seeds": [0]}
    return job("retrieve", **(own | words))


def do_retrieve(ranks, jobs):
    STAGES["retrieve"] = retrieve
    return do(ranks, jobs)


def run_well(world, *jobs):
    for results in run_ranks(do_retrieve, world, jobs, seconds=SECONDS):
        assert results == [None] * len(jobs)


@pytest.fixture(scope="module")
def runs(story, tmp_path_factory):
    """The runs of one rank and of two."""
    outputs = {}
    for world in (1, 2):
        outputs[world] = tmp_path_factory.mktemp(f"retrieve-{world}")
        run_well(world, retrieve_job(story, outputs[world]))
    return outputs


def lists_of(run):
    parts = sorted((run / "lists" / f"day={TEST}").glob("part-*.parquet"))
    order = [("user", "ascending"), ("rank", "ascending")]
    return pa.concat_tables([pq.read_table(part) for part in parts]).sort_by(order)


def ads(story, days):
    rows = dataset_rows(story.data, list(days), ["user", "item", "domain", "click", "row_id"])
    return rows.filter(pc.equal(rows["domain"], 1))


@pytest.mark.parametrize("arm", ARMS)
def test_one_and_two_ranks_leave_the_same(runs, arm):
    one, two = (read_json(runs[world] / arm / "seed-0" / "report.json") for world in (1, 2))
    assert one["digest"] == two["digest"]
    for name in ("metrics", "lists"):
        for first, second in zip(one[name], two[name], strict=True):
            assert first == pytest.approx(second, abs=2e-3 if name == "lists" else 1e-3)
    first, second = (lists_of(runs[world] / arm / "seed-0") for world in (1, 2))
    assert first["user"].equals(second["user"])
    np.testing.assert_allclose(first["score"], second["score"], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("arm", ARMS)
def test_a_run_is_what_report_reads(story, runs, arm):
    run = runs[2] / arm / "seed-0"
    made = read_json(run / "report.json")
    wanted = ("retrieve", arm, 0, story.version)
    assert tuple(made[key] for key in ("stage", "arm", "seed", "upstream")) == wanted
    rows = predictions(run, "test")
    log = ads(story, [TEST]).sort_by("row_id")
    assert rows["row_id"].to_pylist() == log["row_id"].to_pylist()
    exact = roc_auc_score(rows["label_click"].to_numpy(), rows["logit_click"].to_numpy())
    (figures,) = (
        row for row in made["metrics"] if (row["split"], row["scenario"]) == ("test", "all")
    )
    assert figures["auc"] == pytest.approx(exact, abs=1e-6)
    assert figures["calibration"] is None
    names = {line["name"] for line in read_lines(run / "metrics.jsonl")}
    assert {"monitor/recall", "loss/20260103", "recall@20/all/all"} <= names


@pytest.mark.parametrize("arm", ARMS)
def test_lists_are_of_known_unseen_items_and_recall_is_theirs(story, runs, arm):
    run = runs[2] / arm / "seed-0"
    lists = lists_of(run)
    before = ads(story, range(20260101, TEST))
    catalogue = set(before["item"].to_pylist())
    assert set(lists["item"].to_pylist()) <= catalogue
    liked = {}
    for days, name in ((TRAIN, "seen"), ([TEST], "targets")):
        rows = ads(story, days)
        rows = rows.filter(pc.equal(rows["click"], 1))
        liked[name] = set(zip(rows["user"].to_pylist(), rows["item"].to_pylist(), strict=True))
    found = set(zip(lists["user"].to_pylist(), lists["item"].to_pylist(), strict=True))
    assert liked["seen"]
    assert not found & liked["seen"]
    users = lists["user"].to_numpy()
    known = set(rep_rows(story.snapshot(TEST - 1), "user")["key"].to_pylist())
    assert set(users.tolist()) == (known if arm != "retriever" else set(before["user"].to_pylist()))
    assert np.unique(users, return_counts=True)[1].max() == max(KS)
    targets = {(u, i) for u, i in liked["targets"] - liked["seen"] if i in catalogue}
    targets = {(user, item) for user, item in targets if user in set(users.tolist())}
    recall = [
        np.mean([pair in found for pair in targets if pair[0] == user])
        for user in {user for user, _ in targets}
    ]
    (row,) = (
        row
        for row in read_json(run / "report.json")["lists"]
        if (row["split"], row["scenario"], row["items"], row["k"]) == ("test", "all", "all", 20)
    )
    # Users that nobody knew before the day are judged too, by the lists of an unknown user.
    assert abs(row["users"] - len(recall)) <= 5
    assert row["recall"] == pytest.approx(np.mean(recall), abs=0.03)


def test_cold_items_are_in_the_index_and_counted_apart(story, runs):
    run = runs[2] / "ir_ur" / "seed-0"
    index, header = load_index(run / "index" / f"day={TEST}", version=story.version)
    assert header.as_of == TEST - 1
    new = set(ads(story, [20260105])["item"].to_pylist())
    new -= set(ads(story, range(20260101, 20260105))["item"].to_pylist())
    assert new
    assert new <= set(index.keys.tolist())
    cold = [row for row in read_json(run / "report.json")["lists"] if row["items"] == "cold"]
    assert any(row["targets"] for row in cold)


def test_a_rerun_goes_on_with_what_is_missing(story, runs):
    reports = {arm: runs[1] / arm / "seed-0" / "report.json" for arm in ARMS}
    times = {arm: path.stat().st_mtime_ns for arm, path in reports.items()}
    (runs[1] / "ir_ur" / "seed-0" / "report.json").unlink()
    run_well(1, retrieve_job(story, runs[1]))
    assert {arm for arm, path in reports.items() if path.stat().st_mtime_ns != times[arm]} == {
        "ir_ur"
    }
    ((error,),) = run_ranks(do_retrieve, 1, [retrieve_job(story, runs[1])], seconds=SECONDS)
    assert "already holds every arm and seed" in error[0]


REFUSED = {
    "representation": ({"arms__bad__query": ["user.nothing_*"]}, "is called user.nothing_"),
    "version": ({"input__upstream": "abcdefabcdef"}, "abcdefabcdef"),
    "lists": ({"lists__ks": [5, 5000]}, "ks asks for 5000 items but the catalogue"),
    "scenario": ({"scenarios": ["nowhere"]}, "no scenario nowhere"),
    "task": ({"task": "joy"}, "task joy cannot be retrieved for"),
    "kind": ({"index__kind": "tree"}, "index.kind=tree"),
}


def test_mistakes_are_one_sentence_on_every_rank(story, tmp_path):
    jobs = [retrieve_job(story, tmp_path / name, **words) for name, (words, _) in REFUSED.items()]
    for results in run_ranks(do_retrieve, 2, jobs, seconds=SECONDS):
        for (_, sentence), (found, everywhere) in zip(REFUSED.values(), results, strict=True):
            assert sentence in found
            assert everywhere


def test_other_losses_indexes_and_maps_run(story, tmp_path):
    words = {
        "arms": {"ir_ur": {"query": ["user.ur"]}},
        "scenarios": ["moments", "channels"],
        "loss": "bce",
        "fit__monitor": "auc",
        "model__hidden": [8],
        "model__popularity_days": 2,
        "index__kind": "hnsw",
        "lists__ks": [10],
    }
    run_jobs_well = retrieve_job(story, tmp_path, **words)
    run_well(1, run_jobs_well)
    made = read_json(tmp_path / "ir_ur" / "seed-0" / "report.json")
    assert {row["scenario"] for row in made["metrics"]} == {"all", "2", "3"}
    assert made["index"]["kind"] == "hnsw"
    assert made["index"]["recall"] > 0.9
    assert 0.5 < made["metrics"][0]["calibration"] < 2
