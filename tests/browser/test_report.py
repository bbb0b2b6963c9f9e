"""The report as people see it: on a desk, on a phone, on paper."""

import json

import pytest
import torch

from lfm4ads.core.ranks import Ranks
from lfm4ads.stages.report import Config, run
from tests.browser.page import DESKTOP, PHONE
from tests.unit.analysis.planted import plant

ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """A report of nine runs with curves by layer, pretraining and the truth, by the real stage."""
    folder = tmp_path_factory.mktemp("report")
    planted = plant(folder / "planted", num_rows=3_000, seeds=(0, 1, 2))
    run(
        Config(
            runs=(planted.runs,),
            output=folder / "out",
            oracle=planted.oracle,
            pretrain=planted.pretrain,
            curves={"a curve": ["same", "adapter"]},
        ),
        ALONE,
    )
    return folder / "out"


@pytest.fixture(scope="module")
def report(output):
    return json.loads((output / "report.json").read_text())


@pytest.fixture(scope="module")
def page(browser, output):
    return browser.open(output / "report.html")


@pytest.mark.parametrize("width", [DESKTOP, PHONE, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_error_no_request_and_nothing_too_wide(browser, output, width, scheme):
    page = browser.open(output / "report.html", width=width, scheme=scheme)
    assert page.problems() == []
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.problems() == []


def test_scenarios_sort_by_auc(page, report):
    means = [row for row in report["means"] if row["split"] == "test"]
    page.load(page.path)
    before = page.column("#figures", place=5)
    page.click("#figures th:nth-child(6) button")
    after = page.column("#figures", place=5)
    known = sorted(row["auc"] for row in means if row["auc"] is not None)
    assert before != after
    assert after[: len(known)] == [f"{auc:.4f}" for auc in known]
    assert set(after[len(known) :]) == {"\N{EN DASH}"}


def test_scenarios_filter_by_words_and_by_choice(page):
    page.load(page.path)
    page.type(".controls:has(+ .scroll #figures) input", "adapter")
    assert set(page.column("#figures", place=0)) == {"adapter"}
    page.choose(
        ".controls:has(+ .scroll #figures) label:has(select):nth-of-type(3) select", "click"
    )
    assert set(page.column("#figures", place=1)) == {"click"}
    page.choose(".controls:has(+ .scroll #figures) label:has(select):nth-of-type(4) select", "2")
    assert page.column("#figures", place=2) == ["2"]
