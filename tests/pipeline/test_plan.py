"""``plan`` as it is called: what it writes, what it needs not, and what it refuses."""

import json
import subprocess
import sys

import pytest

from launch.plan import main
from lfm4ads.data.schema import load_schema
from lfm4ads.shard.planning.described import describe_schema
from tests.pipeline.jobs import ROOT

DEBUG = str(ROOT / "configs" / "plan" / "debug.yaml")


def plan(output, *words, config=DEBUG):
    return main([config, f"output={output}", *words])


def read(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan") / "run"
    assert plan(folder) == 0
    return folder


def test_report_says_what_it_must(planned):
    report = read(planned)
    assert report["stage"] == "plan"
    assert report["fits"] is True
    assert report["ranks"] == 8
    assert report["tables"] == 40
    assert report["advice"] == ""
    assert 0 < report["planning_seconds"] < 60
    assert 0 < report["max_rank_bytes"] <= report["limit_rank_bytes"]
    assert 0 < report["predicted_step_seconds"] < 1
    assert report["load_spread_ratio"] < 1.1
    assert {len(each) for each in report["per_rank"]["seconds"].values()} == {8}
    assert len(json.loads((planned / "placement.json").read_text())["tables"]) == 40


def test_pictures_and_page_are_whole(planned):
    for name in ("ranks_memory", "ranks_seconds"):
        svg = (planned / "figures" / f"{name}.svg").read_text()
        assert svg.startswith("<?xml")
        assert "weights" in svg or "lookup" in svg
        png = (planned / "figures" / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG")
    page = (planned / "report.html").read_text()
    assert page.count("<svg ") == 2
    assert "http://" not in page
    assert "https://" not in page


def test_config_in_the_folder_makes_the_same_plan(planned, tmp_path):
    assert plan(tmp_path / "again", config=str(planned / "config.yaml")) == 0
    placement = (planned / "placement.json").read_text()
    assert (tmp_path / "again" / "placement.json").read_text() == placement


def test_host_tables_keep_their_share_of_cached_rows(tmp_path):
    rules = "rules={user: {kernels: [fused_uvm_caching], cache_ratio: 0.1}}"
    assert plan(tmp_path / "run", rules) == 0
    rows = json.loads((tmp_path / "run" / "placement.json").read_text())["tables"]
    on_host = {row["name"]: row["cache_ratio"] for row in rows if row["kernel"] != "fused"}
    assert on_host == {"user": 0.1}
    assert read(tmp_path / "run")["tables_on_host"] == 1


def test_a_datasets_schema_is_planned(tmp_path):
    config = tmp_path / "plan.yaml"
    config.write_text(
        f"output: {tmp_path / 'run'}\nschema: {tmp_path}\nlist_pooling: 30\n"
        "cluster: {nodes: 1, gpus_per_node: 2, hbm_gib: 1, host_gib: 8}\n"
    )
    (tmp_path / "schema.yaml").write_text(
        "{version: 1, name: small, user: u, item: i, time: t, domain: d, scenario: s,"
        " domains: [ads], scenarios: [all], tasks: {click: {label: click}},"
        " tables: {item: {rows: 5000, dim: 16}, unread: {rows: 10, dim: 4}},"
        " features: {item: {kind: id, side: item, table: item},"
        " seen: {kind: ids, side: user, table: item, max_length: 7},"
        " liked: {kind: ids, side: user, table: item}}}"
    )
    assert main([str(config)]) == 0
    placed = json.loads((tmp_path / "run" / "placement.json").read_text())["tables"]
    assert [(row["name"], row["rows"], row["dim"]) for row in placed] == [("item", 5000, 16)]
    tables = describe_schema(load_schema(tmp_path), list_pooling=30)
    assert tables.pooling_T.tolist() == [1 + 7 + 30]


def test_what_does_not_fit_says_what_to_change(tmp_path, capsys):
    assert plan(tmp_path / "run", "cluster.nodes=1", "cluster.hbm_gib=2.2") == 0
    report = read(tmp_path / "run")
    assert report["fits"] is False
    assert report["max_rank_bytes"] > report["limit_rank_bytes"]
    more = report["changes"][0]
    assert f"{more['ranks']} ranks" in report["advice"]
    assert report["advice"] in capsys.readouterr().out
    nodes = more["ranks"] // 4
    assert plan(tmp_path / "more", f"cluster.nodes={nodes}", "cluster.hbm_gib=2.2") == 0
    assert read(tmp_path / "more")["fits"] is True


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["cluster.nodes=0"], "cluster.nodes"),
        (["cluster.gpus_per_node=0"], "cluster.gpus_per_node"),
        (["cluster.gpu=8"], "there is no key cluster.gpu"),
        (["groups.user.rows=20_000_000_000_000"], "table user"),
        (["groups.user.dim=6"], "multiple of 4"),
        (["rules={user: {kinds: [rows]}}"], "got rows"),
        (["rules={usr*: {}}"], "usr*"),
        (["schema=nowhere.yaml"], "groups or schema"),
        (["workload.batch_size=0"], "workload.batch_size"),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, capsys, words, sentence):
    assert plan(tmp_path / "run", *words) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "run" / "report.json").exists()


def test_no_table_is_refused(tmp_path, capsys):
    config = tmp_path / "plan.yaml"
    config.write_text(f"output: {tmp_path / 'run'}\ncluster: {{nodes: 1}}\n")
    assert main([str(config)]) == 2
    assert "there is no table to place" in capsys.readouterr().err


def test_a_finished_plan_is_not_overwritten(planned, capsys):
    before = (planned / "report.json").read_text()
    assert plan(planned) == 2
    assert "overwrite=true" in capsys.readouterr().err
    assert (planned / "report.json").read_text() == before


def test_planning_loads_no_torch(tmp_path):
    """It describes weights and must not be able to allocate one."""
    code = (
        "import sys; from launch.plan import main;"
        f"status = main([{DEBUG!r}, 'output={tmp_path / 'run'}']);"
        "sys.exit(status or ('torch' in sys.modules) * 3)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
