"""The analyse stage on the debug world: what it writes, and that ranks do not matter."""

import json
import math
import re

import numpy as np
import pytest

from lfm4ads.core.config import load_config
from lfm4ads.core.errors import UserError
from lfm4ads.core.files import read_json
from lfm4ads.data.reps import open_snapshot
from lfm4ads.stages import analyse
from tests.gloo import run_ranks
from tests.pipeline.jobs import ROOT, SECONDS, job, run_jobs

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(SECONDS + 100)]


def run_analyse(ranks, runs):
    path = ROOT / "configs" / "analyse" / "debug.yaml"
    for words in runs:
        analyse.run(load_config(analyse.Config, [str(path), *words]), ranks)


def words_of(story, output, *more):
    folders = [f"data={story.data}", f"pretrain={story.pretrain}", f"reps={story.reps}"]
    return [*folders, f"output={output}", *more]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """A pretrain run that logs its spectra; of a model whose experts cross features."""
    folder = tmp_path_factory.mktemp("alone")
    words = {"data": data, "days__last": 20260103, "spectra_every_days": 1}
    words["model__tower__rep_dim"] = 0
    run_jobs(1, job("pretrain", output=folder / "run", **words))
    return folder / "run"


@pytest.fixture(scope="module")
def reports(story, alone, tmp_path_factory):
    """Reports by number of ranks, of the story's model and of that with features as fields."""
    folder = tmp_path_factory.mktemp("analyse")
    found = {}
    for world, place in ((1, "table_wise"), (2, "column_wise")):
        runs = [
            words_of(story, folder / f"story-{world}", f"place.default={place}"),
            words_of(
                story,
                folder / f"fields-{world}",
                f"pretrain={alone}",
                "reps=null",
                "history=null",
                f"singles={{click: {alone}, conversion: {story.pretrain}}}",
                "pairs.active_percentile=20",
                "day=20260103",
            ),
        ]
        run_ranks(run_analyse, world, runs, seconds=SECONDS)
        found[world] = [folder / f"{name}-{world}" for name in ("story", "fields")]
    return found


def leaves(value, *, path=""):
    """Return every number of nested JSON by its path."""
    if isinstance(value, dict):
        value = list(value.items())
    elif isinstance(value, list):
        value = list(enumerate(value))
    else:
        return {path: value}
    found = {}
    for key, one in value:
        found |= leaves(one, path=f"{path}/{key}")
    return found


@pytest.mark.parametrize("which", [0, 1])
def test_ranks_and_placement_change_no_number(reports, which):
    one, two = (leaves(read_json(reports[world][which] / "report.json")) for world in (1, 2))
    assert one.keys() == two.keys()
    for path, value in one.items():
        if path.startswith(("/seconds", "/command", "/figures")):
            continue
        if isinstance(value, float):
            assert two[path] == pytest.approx(value, rel=1e-4, abs=1e-6), path
        else:
            assert two[path] == value, path


def test_every_number_is_defined_or_null_and_every_figure_is_there(reports):
    for folder in reports[1]:
        text = (folder / "report.json").read_text()
        report = json.loads(text, parse_constant=pytest.fail)
        assert report["stage"] == "analyse"
        assert report["figures"]
        for figure in report["figures"]:
            svg = (folder / "figures" / f"{figure['name']}.svg").read_text()
            assert svg.rstrip().endswith("</svg>")
            png = (folder / "figures" / f"{figure['name']}.png").read_bytes()
            assert png.startswith(b"\x89PNG")
            assert figure["alt"].endswith(".")


def test_the_page_holds_every_figure_and_asks_for_nothing(reports):
    for folder in reports[2]:
        report = read_json(folder / "report.json")
        page = (folder / "report.html").read_text()
        assert not re.findall(r"(?:src|href)=[\"'](?!#|data:)[^\"']*|https?:|@import", page)
        assert page.count("<svg") == len(report["figures"]) == len(list(folder.glob("*/*.svg")))
        for row in report["collapse"]["tables"]:
            assert f'data-value="{row["raw"]["abundance"]}"' in page
        for pair in report["fields"]["pairs"]:
            assert f'data-value="{pair["bits"]}"' in page
        for row in report.get("health", {}).get("probes", ()):
            assert f'data-value="{row["auc"]}"' in page
        for name, score in report.get("entanglement", {}).get("scores", {}).items():
            assert re.search(rf"<td>{name}</td>.*data-value=\"{score}\"", page), name
        assert f"-m launch.analyse {folder}/config.yaml overwrite=true" in page
        for value in report["lineage"].values():
            assert f"<dd>{value}</dd>" in page


def test_the_page_shows_abundance_over_training(reports, alone):
    report = read_json(reports[1][1] / "report.json")
    assert report["lineage"]["pretrain_run"] == str(alone)
    rows = [row for row in report["training"] if row["table"] == "user"]
    assert {row["kind"] for row in rows} == {"raw", "normalised"}
    lines = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        name = f"abundance/{row['set']}/user/{row['kind']}"
        assert row["abundance"] == [line["value"] for line in lines if line["name"] == name]
        assert row["days"] == ["20260102", "20260103"]
    sections = {figure["section"] for figure in report["figures"]}
    assert sections == {
        "abundance",
        "spectra",
        "projected",
        "training",
        "fields",
        "entanglement",
        "zones",
    }


def test_every_table_beside_a_random_one(reports):
    report = read_json(reports[1][0] / "report.json")
    tables = {row["table"]: row for row in report["collapse"]["tables"]}
    assert {"user", "item", "category", "tag"} <= set(tables)
    for row in tables.values():
        for kind in ("raw", "normalised", "random"):
            values = row[kind]["values"]
            assert len(values) == row["dim"]
            assert row[kind]["abundance"] == pytest.approx(sum(values) / values[0])
    assert {"by recent_categories", "by category"} <= set(tables["category"])


def test_health_is_that_of_the_snapshot(reports, story):
    health = read_json(reports[2][0] / "report.json")["health"]
    snapshot = open_snapshot(story.reps, version=story.version, as_of=health["as_of"])
    rows = {(row["side"], row["name"]): row for row in health["representations"]}
    for side, name in (("user", "ur"), ("item", "ir")):
        row = rows[side, name]
        keys = snapshot.keys(side)
        assert row["keys"] == len(keys)
        table = snapshot.subset(side, [name], keys)
        assert row["coverage_ratio"] == pytest.approx(table.present[name].sum() / len(keys))
        norms = np.linalg.norm(table.values[name][:-1][table.present[name][:-1]], axis=1)
        assert row["norm"]["p50"] == pytest.approx(np.median(norms), rel=0.04)
        before = open_snapshot(story.reps, version=story.version, as_of=health["before"])
        assert row["drift"]["before"]["rows"] == len(np.intersect1d(keys, before.keys(side)))
        assert 0 < row["drift"]["before"]["cka"] <= 1
    assert {probe["name"] for probe in health["probes"]} >= {"user.ur", "item.ir"}
    assert all(0 <= probe["auc"] <= 1 for probe in health["probes"])


def test_training_logs_what_analyse_finds(reports, alone):
    lines = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    logged = {line["name"]: line for line in lines if line["name"].startswith("abundance/")}
    assert {line["split"] for line in logged.values()} == {"day:20260103"}, "the last stays"
    tables = read_json(reports[1][1] / "report.json")["collapse"]["tables"]
    for row in tables:
        for kind in ("raw", "normalised"):
            line = logged[f"abundance/{row['set']}/{row['table']}/{kind}"]
            assert line["value"] == pytest.approx(row[kind]["abundance"], rel=1e-6)
            assert math.isfinite(line["value"])


def test_fields_are_projected_and_pairs_are_placed(reports):
    report = read_json(reports[1][1] / "report.json")
    (projected,) = report["collapse"]["projected"]
    assert "category" in projected["fields"]
    (learned,) = report["fields"]["learned"]
    assert -1 <= learned["spearman"] <= 1
    found = report["entanglement"]
    rows = {row["table"]: row for row in found["tables"]}
    assert rows["only click"]["correct_ratio"] == {"click": 1.0, "conversion": 0.0}
    assert rows["main"]["correct_ratio"] == rows["only click"]["correct_ratio"], "the same model"
    assert found["scores"]["alone"] == 0
    assert found["scores"]["main"] == 0.5
    assert sum(rows["main"]["conflict_pairs"]) == found["conflict_pairs"] > 0


def test_mistakes_are_one_sentence(story, tmp_path):
    sets = "{click: a, nothing: b}"
    for words, sentence in (
        (["task=buy"], "has no task buy; it has click, long_view, conversion"),
        (["day=20250101"], "has no checkpoint of day 20250101"),
        (["history.target=tags"], "names tags, which is no id feature"),
        ([f"singles={sets}"], "has no task nothing"),
        (["pairs.user=age", f"singles={sets.replace('nothing', 'conversion')}"], "names age"),
        (["health.probe_days=[20260104,20260104]"], "a probe is judged on a later day"),
    ):
        output = tmp_path / str(len(list(tmp_path.iterdir())))
        with pytest.raises((UserError, AssertionError), match=sentence):
            run_ranks(run_analyse, 1, [words_of(story, output, *words)], seconds=SECONDS)
