import pytest

from lfm4ads.analysis.html import Extras, headline_lifts, render
from lfm4ads.analysis.sources import Source

FIGURES = ("auc_low", "auc_high", "gauc", "log_loss", "normalized_entropy", "calibration")


def lift(arm, scenario, delta, task="click"):
    ends = (
        {"low": None, "high": None}
        if delta is None
        else {"low": delta - 0.01, "high": delta + 0.01}
    )
    place = {"arm": arm, "baseline": "vanilla", "task": task, "scenario": scenario}
    counts = {"num_seeds": 1, "rows": 10, "positives": 2, "scenarios": ["0"]}
    return place | {"delta_auc": delta, **ends, **counts}


def figure(arm, scenario, split="test"):
    place = {"arm": arm, "task": "click", "scenario": scenario, "split": split, "auc": 0.5}
    return place | dict.fromkeys(FIGURES, 0.5) | {"num_seeds": 1, "rows": 10, "positives": 2}


@pytest.fixture
def report():
    run = {"arm": "vanilla", "seed": 0, "folder": "f", "seconds": None, "scenarios": []}
    run |= {"commit": None, "config_digest": None, "command": "python <again>"}
    cells = [(arm, scenario) for arm in ("vanilla", "<sum>") for scenario in ("mean", "all", "0")]
    return {
        "title": "A & B <script>",
        "baseline": "vanilla",
        "dataset": "d",
        "upstream": None,
        "min_positives": 20,
        "arms": [figure(*cell) | {"seed": 0} for cell in cells if cell[1] != "mean"],
        "means": [figure(*cell) for cell in cells],
        "lifts": [lift("<sum>", scenario, 0.1) for scenario in ("mean", "all", "0")],
        "gap_closed": [],
        "curves": [],
        "reliability": [],
        "training": [],
        "best_points": [],
        "lineage": {"datasets": [], "upstreams": [], "representations": [], "arms": []},
        "runs": [run | {"rows_per_second": 1.0, "num_parameters": 10}],
        "versions": {"Python": "3"},
    }


def page(report, **extras):
    sources = [Source(title="vanilla/seed-0", command="python <x>", config="a: <b>")]
    return render(report, extras=Extras(pictures=[], sources=sources, command="make", **extras))


def test_names_and_configs_are_escaped(report):
    html = page(report, notes={"training": "<i>"})
    assert "<title>A &amp; B &lt;script&gt;</title>" in html
    assert "&lt;sum&gt; lifts click AUC by +0.1000" in html
    assert all(raw not in html for raw in ("<sum>", "a: <b>", "python <x>", "<again>", "<i>"))


def test_missing_parts_say_so(report):
    html = page(report, has_pretrain=True)
    assert "gap closed" not in html  # as no truth was given
    assert "The pretraining run logged no curve." in html
    assert 'title="the run did not record it">\N{EN DASH}' in html
    assert "Upstream pretraining" not in page(report)


def test_headline_prefers_the_mean_where_it_is_defined():
    lifts = [lift("a", "mean", 0.1), lift("a", "all", 0.2), lift("a", "0", 0.3)]
    lifts += [lift("b", "mean", None), lift("b", "all", 0.2)]
    lifts += [lift("c", "all", 0.2), lift("c", "mean", 0.1)]
    chosen = [(one["arm"], one["scenario"]) for one in headline_lifts(lifts)]
    assert chosen == [("a", "mean"), ("b", "all"), ("c", "mean")]


def test_rows_keep_their_order_so_that_ties_stay_sorted(report):
    html = page(report)
    table = html[html.index('id="figures"') :]
    order = [table.index(f"<td>{arm}</td>") for arm in ("vanilla", "&lt;sum&gt;")]
    assert order == sorted(order)
    assert table.count('<tr class="mean">') == 6
    assert table.count('<tr class="detail">') == 4
