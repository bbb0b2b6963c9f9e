import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from lfm4ads.core.config import load_config
from lfm4ads.core.ranks import Ranks
from lfm4ads.stages.report import Config, run
from tests.unit.analysis.planted import plant

ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))
CLICK = {"task": "click", "split": "test"}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("planted"), num_rows=6_000, seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def output(planted, tmp_path_factory):
    output = tmp_path_factory.mktemp("report") / "out"
    config = Config(
        runs=(planted.runs,), output=output, oracle=planted.oracle, pretrain=planted.pretrain
    )
    run(config, ALONE)
    return output


@pytest.fixture(scope="module")
def report(output):
    return json.loads((output / "report.json").read_text())


@pytest.fixture(scope="module")
def html(output):
    return (output / "report.html").read_text()


def pick(rows, **where):
    found = [row for row in rows if all(row[name] == value for name, value in where.items())]
    assert len(found) == 1, (where, len(found))
    return found[0]


def labelled(table, *, task, scenario):
    kept = table.filter(pc.is_valid(table[f"label_{task}"]))
    if scenario != "all":
        kept = kept.filter(pc.equal(kept["scenario"], int(scenario)))
    return kept[f"label_{task}"].to_numpy(), kept[f"logit_{task}"].to_numpy().astype(np.float64)


def test_figures_equal_sklearn(planted, report):
    compared = 0
    for row in report["arms"]:
        if row["arm"] == "oracle":
            continue
        table = planted.tables[row["arm"], row["seed"], row["split"]]
        labels, logits = labelled(table, task=row["task"], scenario=row["scenario"])
        assert (row["rows"], row["positives"]) == (len(labels), int(labels.sum()))
        if 0 < labels.sum() < len(labels):
            chance = 1 / (1 + np.exp(-logits))
            rate = labels.mean()
            assert row["auc"] == pytest.approx(roc_auc_score(labels, logits), abs=1e-9)
            assert row["log_loss"] == pytest.approx(log_loss(labels, chance), rel=1e-6)
            assert row["calibration"] == pytest.approx(chance.mean() / rate, rel=1e-6)
            assert row["normalized_entropy"] == pytest.approx(
                row["log_loss"] / log_loss(labels, np.full(len(labels), rate)), rel=1e-6
            )
            compared += 1
        else:
            assert row["auc"] is None
    assert compared >= 3 * 3 * 2 * 2 * 4  # arms, seeds, splits, tasks, scenarios with both classes


def test_lift_is_the_mean_paired_difference(planted, report):
    lift = pick(report["lifts"], arm="adapter", task="click", scenario="all")
    difference = np.mean(
        [
            roc_auc_score(
                *labelled(planted.tables["adapter", s, "test"], task="click", scenario="all")
            )
            - roc_auc_score(
                *labelled(planted.tables["vanilla", s, "test"], task="click", scenario="all")
            )
            for s in (0, 1, 2)
        ]
    )
    assert lift["delta_auc"] == pytest.approx(difference, abs=1e-9)
    assert (lift["num_seeds"], lift["rows"]) == (3, 6_000)


def test_mean_lift_averages_the_scenarios_it_names(report):
    lift = pick(report["lifts"], arm="adapter", task="click", scenario="mean")
    parts = [
        pick(report["lifts"], arm="adapter", task="click", scenario=scenario)
        for scenario in lift["scenarios"]
    ]
    assert lift["scenarios"] == ["0", "1", "2"]  # the fourth has too few positives
    assert lift["delta_auc"] == pytest.approx(np.mean([part["delta_auc"] for part in parts]))
    assert lift["rows"] == sum(part["rows"] for part in parts) < 6_000
    assert lift["positives"] == sum(part["positives"] for part in parts)
    mean = pick(report["means"], arm="adapter", scenario="mean", **CLICK)
    base = pick(report["means"], arm="vanilla", scenario="mean", **CLICK)
    assert mean["auc"] - base["auc"] == pytest.approx(lift["delta_auc"])


def test_intervals_cover_the_planted_truth(report, tmp_path):
    """The truth is taken from a world thirty times larger, where rows hardly matter."""
    large = plant(tmp_path, num_rows=180_000, seeds=(0,), arms={"vanilla": 0.4, "adapter": 0.8})
    truth = {
        arm: roc_auc_score(*labelled(large.tables[arm, 0, "test"], task="click", scenario="all"))
        for arm in ("vanilla", "adapter")
    }
    lift = pick(report["lifts"], arm="adapter", task="click", scenario="all")
    assert 0 < lift["low"] < truth["adapter"] - truth["vanilla"] < lift["high"]
    none = pick(report["lifts"], arm="same", task="click", scenario="mean")
    assert none["low"] < 0 < none["high"]


def test_oracle_is_joined_by_row(planted, report):
    table = planted.tables["vanilla", 0, "test"]
    truth = pq.read_table(planted.oracle / "day=20250102" / "part-0.parquet")
    chance = dict(zip(*(truth[name].to_pylist() for name in truth.column_names), strict=True))
    scores = [chance[row] for row in table["row_id"].to_pylist()]
    row = pick(report["arms"], arm="oracle", scenario="all", **CLICK)
    assert row["auc"] == pytest.approx(
        roc_auc_score(table["label_click"].to_numpy(), scores), abs=1e-6
    )
    assert 0.9 < row["calibration"] < 1.1
    lifts = {
        arm: pick(report["lifts"], arm=arm, task="click", scenario="mean")["delta_auc"]
        for arm in ("adapter", "oracle")
    }
    gap = pick(report["gap_closed"], arm="adapter", task="click", scenario="mean")
    assert gap["share"] == pytest.approx(lifts["adapter"] / lifts["oracle"])
    assert 0 < gap["low"] < gap["share"] < gap["high"] < 1
    # The simulator knew no probability of a conversion.
    assert {row["task"] for row in report["gap_closed"]} == {"click"}


def test_report_keeps_the_contract(report):
    assert report["schema_version"] == 1
    figures = {
        "auc",
        "auc_low",
        "auc_high",
        "gauc",
        "log_loss",
        "normalized_entropy",
        "calibration",
    }
    place = {"arm", "seed", "task", "scenario", "split", "rows", "positives"}
    figures |= {"normalized_entropy", "calibration"}
    assert all(set(row) == place | figures for row in report["arms"])
    lift = {"arm", "baseline", "task", "scenario", "delta_auc", "low", "high"}
    assert all(lift <= set(row) for row in report["lifts"])
    assert {row["split"] for row in report["arms"]} == {"valid", "test"}
    assert {row["scenario"] for row in report["arms"]} == {"all", "0", "1", "2", "3"}
    trained = {(arm, seed) for arm in ("vanilla", "adapter", "same") for seed in (0, 1, 2)}
    assert {(row["arm"], row["seed"]) for row in report["arms"]} == trained | {("oracle", 0)}
    assert (report["dataset"], report["upstream"]) == ("planted-world", "lfm-0001")


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.links, self.ids, self.texts = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [
            value for name, value in attrs if name in ("src", "href", "xlink:href", "data")
        ]
        if tag not in ("meta", "input", "br", "link", "path", "use", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in ("path", "use", "rect"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_page_is_whole_and_needs_nothing_from_outside(html):
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    targets = [link.removeprefix("#") for link in page.links if link != "data:,"]
    assert set(targets) <= set(page.ids)  # every link stays in the page
    assert not re.search(r"https?://|@import|//cdn|url\((?!#)", html)
    assert set(re.findall(r"url\(#([^)\"]+)\)", html)) <= set(page.ids)


def test_page_holds_every_headline_figure(html, report):
    for lift in report["lifts"]:
        if lift["scenario"] in ("all", "mean"):
            assert f"{lift['delta_auc']:+.4f}" in html
            assert f"[{lift['low']:+.4f}, {lift['high']:+.4f}]" in html
            assert f"{lift['rows']:,}" in html
            assert f"{lift['positives']:,}" in html
    lift = pick(report["lifts"], arm="adapter", task="click", scenario="mean")
    assert (
        f"adapter lifts click AUC by {lift['delta_auc']:+.4f} "
        f"[{lift['low']:+.4f}, {lift['high']:+.4f}] over vanilla, mean over 3 scenarios, 3 seeds"
    ) in html
    assert "same does not clearly change click AUC" in html
    assert html.count("read the per-scenario mean") >= 3
    assert "&lt;b&gt;not markup&lt;/b&gt;" in html
    assert "<b>not markup" not in html


def test_undefined_figures_say_why(html, report):
    row = next(row for row in report["arms"] if row["auc"] is None)
    assert row["scenario"] == "3"
    assert '<abbr class="undefined" title="no positives here">\N{EN DASH}</abbr>' in html
    assert 'title="too few rows of one class for an interval">\N{EN DASH}' in html


def test_pictures_are_files_too(output, html):
    names = {path.stem for path in (output / "figures").glob("*.svg")}
    assert {"lifts-click", "auc-conversion", "reliability-oracle", "training-loss-train"} <= names
    assert {"pretrain-loss-train", "pretrain-auc-click-by-day"} <= names
    assert {path.stem for path in (output / "figures").glob("*.png")} == names
    assert html.count("<svg ") == len(names) == html.count('role="img" aria-label="')
    assert "20260101" not in html


def files(output):
    """The commit may change while tests run in a checkout that is worked on."""
    paths = [output / "report.json", output / "report.html", *(output / "figures").iterdir()]
    commit = rb"(commit|runs\": \")[ \"]*[0-9a-f]{7,}(-dirty)?"
    return {path: re.sub(commit, b"commit", path.read_bytes()) for path in paths}


def test_config_in_the_output_makes_the_same_bytes(output):
    before = files(output)
    run(load_config(Config, [str(output / "config.yaml"), "overwrite=true"]), ALONE)
    assert files(output) == before


def test_every_drawn_number_is_in_the_report(planted, report):
    """What pictures alone would show: bins of reliability and training curves."""
    (bins,) = [
        row["bins"]
        for row in report["reliability"]
        if (row["arm"], row["task"]) == ("adapter", "click")
    ]
    tables = [planted.tables["adapter", seed, "test"] for seed in (0, 1, 2)]
    labels = np.concatenate([labelled(one, task="click", scenario="all")[0] for one in tables])
    assert sum(one["rows"] for one in bins) == len(labels)
    clicks = sum(one["rows"] * one["observed"] for one in bins)
    assert clicks == pytest.approx(labels.sum())
    curve = pick(report["training"], run="adapter/seed-1", name="loss")
    assert curve["x"] == list(range(0, 200, 10))
    assert curve["y"] == pytest.approx([0.7 - 0.001 * step for step in curve["x"]])
    assert pick(report["training"], run="pretrain", name="auc/click")["y"] == [0.61, 0.62, 0.63]


def test_one_arm_alone_still_reports(tmp_path, capsys):
    planted = plant(tmp_path, num_rows=200, seeds=(3,), arms={"vanilla": 0.4})
    (planted.runs / "vanilla" / "seed-3" / "metrics.jsonl").unlink()
    run(Config(runs=(planted.runs,), output=tmp_path / "out"), ALONE)
    html = (tmp_path / "out" / "report.html").read_text()
    assert "there is no lift to report" in html
    assert "The runs logged no curve." in html
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].split()[:2] == ["vanilla", "click"]
    assert printed[-1] == str(tmp_path / "out" / "report.html")


def test_a_task_without_labels_or_truth_is_shown_as_undefined(tmp_path):
    planted = plant(tmp_path, num_rows=150, seeds=(0,), arms={"vanilla": 0.4})
    for path in planted.runs.glob("**/part-*.parquet"):
        table = pq.ParquetFile(path).read()
        place = table.column_names.index("label_conversion")
        none = pa.nulls(table.num_rows, pa.int8())
        pq.write_table(table.set_column(place, "label_conversion", none), path)
    run(Config(runs=(planted.runs,), output=tmp_path / "out", oracle=planted.oracle), ALONE)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    row = pick(report["arms"], arm="vanilla", task="conversion", split="test", scenario="all")
    assert (row["auc"], row["rows"]) == (None, 0)
    assert {lift["task"] for lift in report["lifts"]} == {"click"}
    assert "no labelled rows here" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("name", ["demo", "debug"])
def test_configs_load(name):
    config = load_config(Config, [f"configs/report/{name}.yaml"])
    assert config.baseline == "vanilla"
