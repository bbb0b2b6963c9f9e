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
    planted = plant(folder / "planted", num_rows=2_000, seeds=(0, 1, 2))
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


@pytest.fixture
def opened(page):
    """The page with all that can be opened open."""
    page.load(page.path)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.click(".controls:has(+ .scroll #figures) input[type=checkbox]")
    return page


def test_the_figures_of_report_json_are_on_the_page(opened, report):
    lifts = opened.text("#lift-figures")
    for lift in report["lifts"]:
        if lift["scenario"] in ("all", "mean"):
            assert f"{lift['delta_auc']:+.4f}" in lifts
            assert f"[{lift['low']:+.4f}, {lift['high']:+.4f}]" in lifts
    rows = [*report["arms"], *report["means"]]
    names = ("auc", "gauc", "normalized_entropy")
    numbers = {f"{row[name]:.4f}" for row in rows for name in names if row[name] is not None}
    figures = opened.text("#figures")
    assert len(numbers) > 100
    assert [number for number in numbers if number not in figures] == []
    assert opened.problems() == []


def test_bins_curves_and_sources_of_report_json_are_on_the_page(opened, report):
    bins, logged = opened.text("#bins"), opened.text("#logged")
    for one in (one for row in report["reliability"] for one in row["bins"]):
        assert f"{one['predicted']:.5f}" in bins
        assert f"{one['observed']:.5f}" in bins
    assert all(f"{curve['y'][-1]:.4f}" in logged for curve in report["training"])
    runs, commands = opened.text("#runs"), opened.text(".commands")
    assert all(
        row["config_digest"] in runs and row["command"] in commands for row in report["runs"]
    )
    assert "lfm-0001" in opened.text(".chain")


def test_pictures_have_room_for_their_words(browser, output):
    """No text of a picture is cut off by its edge, at either width."""
    cut = """[...document.querySelectorAll("figure svg")].flatMap((svg) => {
      const edge = svg.getBoundingClientRect();
      return [...svg.querySelectorAll("text")].filter((text) => {
        const box = text.getBoundingClientRect();
        return box.left < edge.left - 1 || box.right > edge.right + 1
          || box.top < edge.top - 1 || box.bottom > edge.bottom + 1;
      }).map((text) => text.textContent);
    })"""
    small = """[...document.querySelectorAll("figure svg text")].map((text) => {
      const to_screen = text.getScreenCTM();
      return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(to_screen.a, to_screen.b);
    }).filter((size) => size < 8.5).length"""
    for width in (DESKTOP, PHONE):
        page = browser.open(output / "report.html", width=width)
        assert page.evaluate(cut) == []
        assert page.evaluate(small) == 0


def test_words_stand_out_from_their_ground(browser, output):
    """WCAG AA: 4.5:1 for words, 3:1 for marks, in both schemes."""
    ratios = """(() => {
      const style = getComputedStyle(document.documentElement);
      const light = (name) => {
        const parts = style.getPropertyValue(name).trim().match(/[0-9a-f]{2}/g);
        const [r, g, b] = parts.map((part) => parseInt(part, 16) / 255).map(
          (one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ratio = (a, b) => {
        const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
        return (high + 0.05) / (low + 0.05);
      };
      const words = ["--ink", "--muted", "--accent"].flatMap(
        (name) => ["--paper", "--ground"].map((ground) => ratio(name, ground)));
      const marks = [0, 1, 2, 3, 4, 5].map((at) => ratio(`--series-${at}`, "--paper"));
      return [Math.min(...words), Math.min(...marks)];
    })()"""
    for scheme in ("light", "dark"):
        words, marks = browser.open(output / "report.html", scheme=scheme).evaluate(ratios)
        assert words >= 4.5
        assert marks >= 3


def test_on_paper_tables_unroll_and_controls_are_gone(browser, output, tmp_path):
    page = browser.open(output / "report.html")
    page.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.call("Emulation.setEmulatedMedia", media="print")
    page.resize(width=733)  # A4 without its margins
    assert page.overflow() == []
    assert page.evaluate("document.querySelector('#figures').offsetWidth") <= 733
    hidden = """[...document.querySelectorAll(".scroll")].filter(
      (one) => one.scrollHeight > one.clientHeight + 1).length"""
    assert page.evaluate(hidden) == 0
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
