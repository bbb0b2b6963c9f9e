"""The comparable-sample study of planted runs in a planted world."""

import json
import re
from collections import Counter
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from lfm4ads.core.errors import UserError
from lfm4ads.metrics.comparable import BinsConfig
from lfm4ads.stages.comparable import Config, StudyDays, run, study_report
from tests.batches import one_rank
from tests.two_tastes import GROUPS, TASKS, make_two_tastes

TRAIN, VALID, TEST = DAYS = (20260101, 20260102, 20260103)
SEEDS = (0, 1)
NAMES = {"a": "a_dominant", "comparable": "comparable", "b": "b_dominant"}
"""Planted group -> its bin."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "data"
    return make_two_tastes(folder, days={TRAIN: 18_000, VALID: 1_500, TEST: 3_000}, users=99)


def day_table(world, day):
    return pq.read_table(world.data / f"day={day}" / "part-00000.parquet")


def groups_of(world, day):
    users = day_table(world, day)["user_id"].to_pylist()
    return np.array([world.group[user] for user in users])


def write_scores(world, folder, *, seed, noisy=(), order=None):
    """Write a finished run that knows the truth but for some noise, and much of it in ``noisy``."""
    for day in (VALID, TEST):
        table, rng = day_table(world, day), np.random.default_rng((seed, day))
        truth = np.log(world.chance_NT[day] / (1 - world.chance_NT[day]))
        noise = np.where(np.isin(groups_of(world, day), noisy), 4.0, 0.5)[:, None]
        logits = (truth + noise * rng.standard_normal(truth.shape)).astype(np.float32)
        columns = {"row_id": table["row_id"], "user": table["user_id"]}
        columns |= {"scenario": pa.array(np.zeros(len(table), np.int64))}
        columns |= {"day": pa.array(np.full(len(table), day))}
        columns |= {f"label_{task}": table[task] for task in TASKS}
        columns |= {f"logit_{task}": logits[:, place] for place, task in enumerate(TASKS)}
        scores = pa.table(columns)
        path = folder / "scores" / f"day={day}" / "part-00000.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            scores if order is None else scores.take(order.permutation(len(table))), path
        )
    (folder / "report.json").write_text('{"stage": "pretrain"}')


def plant_runs(world, folder, *, order=None):
    """One variant that shares and pays for it where feedback is comparable."""
    for seed in SEEDS:
        write_scores(world, folder / "single" / f"seed-{seed}", seed=seed, order=order)
        shared = folder / "shared" / f"seed-{seed}"
        write_scores(world, shared, seed=seed, noisy=("comparable",), order=order)


@pytest.fixture
def config(world, tmp_path):
    plant_runs(world, tmp_path / "runs")
    return Config(
        runs=tmp_path / "runs",
        data=world.data,
        output=tmp_path / "study",
        baseline="single",
        days=StudyDays(test_first=TEST),
    )


def study(config):
    return study_report(config, alone=one_rank())


def plain_bins(data):
    """Count the users' positives of the training day one row at a time, and put them into bins."""
    rows = pq.read_table(data / f"day={TRAIN}" / "part-00000.parquet").to_pylist()
    seen = Counter(row["user_id"] for row in rows)
    count = {task: Counter() for task in TASKS}
    for row in rows:
        for task in TASKS:
            count[task][row["user_id"]] += row[task]
    rate = {task: sum(count[task].values()) / len(rows) for task in TASKS}
    bins = {}
    for user, num_rows in seen.items():
        one, two = ((count[t][user] + 1) / (num_rows * rate[t] + 1) for t in TASKS)
        rho = np.log2(one / two)
        bins[user] = NAMES["a"] if rho > 1 else NAMES["b"] if rho < -1 else NAMES["comparable"]
    return bins


def test_planted_users_land_in_planted_bins(world, config):
    report = study(config)
    bins = plain_bins(world.data)
    right = [bins[user] == NAMES[group] for user, group in world.group.items()]
    assert np.mean(right) >= 0.95
    told = {one["name"]: one["train_users"] for one in report["pairs"][0]["bins"]}
    assert told == {**Counter(bins.values()), "unseen": 0}
    assert min(told[NAMES[group]] for group in GROUPS) >= 30


def test_figures_are_those_of_the_rows_of_a_bin(world, config):
    report = study(config)
    bins, table = plain_bins(world.data), day_table(world, TEST)
    bin_of_row = np.array([bins[user] for user in table["user_id"].to_pylist()])
    rows = {(one["bin"], one["task"], one["variant"]): one for one in report["figures"]}
    for seed in SEEDS:
        path = config.runs / "shared" / f"seed-{seed}" / f"scores/day={TEST}/part-00000.parquet"
        scores = pq.read_table(path)
        for task in TASKS:
            for name in NAMES.values():
                own = bin_of_row == name
                logits, labels = (scores[f"{x}_{task}"].to_numpy()[own] for x in ("logit", "label"))
                found = rows[name, task, "shared"]["auc_values"][seed]
                assert found == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)
    counted = {one["name"]: one for one in report["pairs"][0]["bins"]}
    for name in NAMES.values():
        own = bin_of_row == name
        assert counted[name]["rows"] == dict.fromkeys(TASKS, own.sum())
        assert counted[name]["positives"]["b"] == table["b"].to_numpy()[own].sum()
        assert counted[name]["users"] == len(set(table["user_id"].to_numpy()[own]))


def test_negative_transfer_is_found_where_it_was_planted(config, capsys):
    run(config, one_rank())
    report = json.loads((config.output / "report.json").read_text())
    assert report == json.loads(json.dumps(study(config)))
    delta = {
        one["bin"]: one["delta_auc"]
        for one in report["figures"]
        if (one["variant"], one["task"]) == ("shared", "mean")
    }
    assert delta["comparable"]["mean"] < -0.1
    assert delta["comparable"]["high"] < 0
    assert delta["unseen"] is None
    for name in (NAMES["a"], NAMES["b"]):
        assert abs(delta[name]["mean"]) < 0.02
    table = capsys.readouterr().out
    assert (config.output / "table.txt").read_text() in table
    assert "unseen" not in table
    lines = table.splitlines()
    (header,) = [line for line in lines if line.startswith("AUC of both tasks")]
    shared = lines[lines.index(header) + 3]
    (value,) = re.findall(rf"{delta['comparable']['mean']:+.4f}", shared)
    assert value in shared[header.index("a dominant") : header.index("b dominant")]
    check_page(config)


def check_page(config):
    """The page and the pictures are whole and offline."""
    page = (config.output / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<svg") == 3  # a, b and their mean
    assert "<td>shared</td><td>comparable</td><td>mean</td>" in page
    for path in (config.output / "figures").glob("*.svg"):
        text = path.read_text()
        ET.fromstring(text)
        assert "shared" in text
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert len(list((config.output / "figures").iterdir())) == 6


def rewrite(path, change):
    table = change(pq.read_table(path))
    pq.write_table(table, path)


def flipped(table, columns):
    for name in columns:
        place = table.column_names.index(name)
        values = 1 - table[name].to_numpy()
        table = table.set_column(place, table.schema.field(name), [values])
    return table


@pytest.fixture
def copied(world, config, tmp_path):
    """The study of a copy of the dataset that may be written to."""
    for day in DAYS:
        path = tmp_path / "copy" / f"day={day}" / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(day_table(world, day), path)
    (tmp_path / "copy" / "schema.yaml").write_text((world.data / "schema.yaml").read_text())
    return replace(config, data=tmp_path / "copy", output=tmp_path / "second")


def bins_told(report):
    """What is said of bins, without the outcomes of test rows."""
    return [
        {key: value for key, value in one.items() if key != "bins"}
        | {"bins": [{k: v for k, v in each.items() if k != "positives"} for each in one["bins"]]}
        for one in report["pairs"]
    ]


def test_labels_of_test_days_do_not_move_bins(config, copied):
    before = study(config)
    for day in (VALID, TEST):
        path = copied.data / f"day={day}" / "part-00000.parquet"
        rewrite(path, lambda table: flipped(table, TASKS))
        for path in copied.runs.glob(f"*/*/scores/day={day}/*"):
            rewrite(path, lambda table: flipped(table, [f"label_{task}" for task in TASKS]))
    after = study(copied)
    assert bins_told(after) == bins_told(before)
    assert after["figures"] != before["figures"]


def test_labels_of_training_days_do(config, copied):
    before = study(config)
    rewrite(copied.data / f"day={TRAIN}" / "part-00000.parquet", lambda t: flipped(t, TASKS))
    assert bins_told(study(copied)) != bins_told(before)


def test_the_order_of_rows_and_files_does_not_matter(world, config, copied, tmp_path):
    before = study(config)
    rng = np.random.default_rng(5)
    path = copied.data / f"day={TRAIN}" / "part-00000.parquet"
    rewrite(path, lambda table: table.take(rng.permutation(len(table))))
    plant_runs(world, tmp_path / "shuffled", order=rng)
    for path in (tmp_path / "shuffled").glob("*/*/scores/*/part-00000.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.slice(1000), path)
        pq.write_table(table.slice(0, 1000), path.with_name("part-00001.parquet"))
    after = study(replace(copied, runs=tmp_path / "shuffled"))
    for key in ("pairs", "figures", "train_days", "test_days", "seeds"):
        assert after[key] == before[key], key


def test_terciles_and_the_days_that_chose_passes(config):
    config = replace(config, bins=BinsConfig(edges="terciles"), days=StudyDays())
    report = study(config)
    assert report["test_days"] == [VALID, TEST]
    assert report["train_days"] == [TRAIN]
    users = [one["train_users"] for one in report["pairs"][0]["bins"]]
    assert users == [33, 33, 33, 0]


def test_a_day_between_may_be_trained_on(config):
    report = study(replace(config, days=StudyDays(test_first=TEST, last=VALID)))
    assert report["train_days"] == [TRAIN, VALID]


def test_single_task_runs_are_a_baseline_each(world, config):
    for task in TASKS:
        write_scores(world, config.runs / f"only_{task}" / "seed-0", seed=0)
        write_scores(world, config.runs / f"only_{task}" / "seed-1", seed=1)
    baselines = {task: f"only_{task}" for task in TASKS}
    report = study(replace(config, baseline="", baselines=baselines))
    shown = {(one["task"], one["variant"]) for one in report["figures"]}
    assert {("a", "only_a"), ("b", "only_b"), ("mean", "shared")} < shown
    assert not {("b", "only_a"), ("mean", "only_a")} & shown
    assert all(
        (one["delta_auc"] is None) == one["variant"].startswith("only_")
        for one in report["figures"]
        if one["bin"] != "unseen"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"baseline": "best"}, "has no finished run of best, only of shared, single"),
        ({"pairs": {"x": ["a", "buy"]}}, "pairs.x names task buy; the dataset has a, b"),
        ({"baselines": {"buy": "single"}}, "baselines names task buy; the dataset has a, b"),
        ({"baseline": "", "baselines": {"a": "single"}}, "baselines has none for task b"),
        ({"days": StudyDays(last=VALID)}, "days.last is 20260102, but the runs are compared from"),
        ({"days": StudyDays(last=TEST)}, "days.last is 20260103, but .* labels of that day would"),
        ({"days": StudyDays(first=20260102)}, "no training day from 20260102 to 20260101; mend"),
        ({"days": StudyDays(test_first=20260104)}, "the runs scored days 20260102 to 20260103; ch"),
    ],
)
def test_a_study_that_cannot_be_is_one_sentence(config, words, sentence):
    with pytest.raises(UserError, match=sentence) as told:
        run(replace(config, **words), one_rank())
    assert "\n" not in str(told.value)
    assert not (config.output / "report.json").exists()


def test_runs_without_scores_or_with_other_rows_are_one_sentence(config):
    path = config.runs / "shared" / "seed-1" / "scores" / f"day={TEST}" / "part-00000.parquet"
    whole = path.read_bytes()
    rewrite(path, lambda table: table.slice(1))
    with pytest.raises(UserError, match=r"shared/seed-1 scored other rows than .*single/seed-0"):
        run(config, one_rank())
    path.write_bytes(whole)
    for one in config.runs.glob("shared/seed-0/scores/*/*"):
        one.unlink()
    with pytest.raises(UserError, match=r"shared/seed-0 has no scores/.* with write_scores=true"):
        run(config, one_rank())


def test_a_task_without_positives_is_one_sentence(copied):
    def nobody(table):
        zeros = np.zeros(len(table), np.int8)
        return table.set_column(table.column_names.index("b"), table.schema.field("b"), [zeros])

    rewrite(copied.data / f"day={TRAIN}" / "part-00000.parquet", nobody)
    with pytest.raises(UserError, match="no row of the training days is a positive of b; leave"):
        run(copied, one_rank())


def test_a_finished_study_is_kept_and_runs_are_never_removed(config):
    config.output.mkdir()
    (config.output / "report.json").write_text('{"stage": "comparable"}')
    with pytest.raises(UserError, match=r"already holds a finished run; .* pass overwrite=true"):
        run(config, one_rank())
    (config.runs / "report.json").write_text('{"stage": "experiment"}')
    with pytest.raises(UserError, match="holds a finished run of experiment; choose another out"):
        run(replace(config, output=config.runs, overwrite=True), one_rank())
    assert len(list(config.runs.glob("*/seed-*/scores/*/*"))) == 8
    with pytest.raises(UserError, match="no finished run of best"):
        run(replace(config, baseline="best", overwrite=True), one_rank())
    assert (config.output / "report.json").exists(), "a study that fails removes no other"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"baseline": ""}, "needs a baseline, or baselines by task"),
        ({"pairs": {"x": ["a", "a"]}}, "pairs.x must name two tasks"),
    ],
)
def test_impossible_configs_are_refused(config, words, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(config, **words)
