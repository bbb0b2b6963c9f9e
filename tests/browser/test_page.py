"""The driver sees what is wrong with a page; the page's own parts do what they say."""

import pytest

from lfm4ads.analysis.page import page_environment
from tests.browser.devtools import BrowserError
from tests.browser.page import DESKTOP, PHONE

PARTS = """{% import "parts.html.j2" as parts %}{{ parts.head("Parts") }}
<h1>Parts</h1><details><summary>more</summary><p id="inside">hidden on screen</p></details>
{% call parts.table(["arm", "task", "AUC"], label="Arms", id="arms", filter=true, choices=[1],
  detail="each seed") %}
{%- for arm, task, auc in rows %}
<tr{% if arm == "seed" %} class="detail"{% endif %}><td>{{ arm }}</td><td>{{ task }}</td>{{
  parts.real(auc) }}</tr>
{%- endfor %}{% endcall %}
<p>See <abbr title="why it is so">why</abbr>.</p>
{{ parts.foot() }}"""
ROWS = [
    ("ten", "click", 10.0),
    ("none", "click", None),
    ("nine", "buy", 9.0),
    ("minus", "buy", -1.5),
    ("seed", "buy", 3.0),
]


@pytest.fixture
def write(tmp_path):
    def _write(body, viewport="<meta name=viewport content='width=device-width'>"):
        path = tmp_path / "page.html"
        path.write_text(f"<!doctype html><link rel=icon href=data:,>{viewport}{body}")
        return path

    return _write


@pytest.fixture
def parts(browser, tmp_path):
    path = tmp_path / "parts.html"
    path.write_text(page_environment().from_string(PARTS).render(rows=ROWS))
    return browser.open(path)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("<script>console.error('broken', 3)</script>", "broken 3"),
        ("<script>undefined.x</script>", "TypeError"),
        ("<script>Promise.reject(new Error('late'))</script>", "late"),
        ("<img src='http://example.org/a.png'>", "http://example.org/a.png"),
        ("<style>@import url(https://example.org/a.css)</style>", "https://example.org/a.css"),
        ("<script>fetch('neighbour.json').catch(() => 0)</script>", "neighbour.json"),
        ("<div style='width: 1400px; height: 9px; background: red'></div>", "1400px"),
        ("<pre>" + "long " * 300 + "</pre>", "wide on a screen of"),
    ],
)
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_what_is_wrong_is_seen(browser, write, body, told, width):
    problems = browser.open(write(body), width=width).problems()
    assert any(told in problem for problem in problems), problems


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_a_sound_page_has_no_problem(browser, write, width):
    text = write("<div class=scroll style='overflow: auto'><table><td>" + "wide" * 999 + "</table>")
    assert browser.open(text, width=width).problems() == []


def test_a_page_that_takes_a_phone_for_a_desk_is_seen(browser, write):
    problems = browser.open(write("<p>small print", viewport=""), width=PHONE).problems()
    assert problems[0] == "the page is 980 wide on a screen of 390"


def test_what_is_covered_cannot_be_clicked(browser, write):
    page = browser.open(
        write("<button id=a>a</button><div style='position: fixed; inset: 0'></div>")
    )
    with pytest.raises(BrowserError, match="covered"):
        page.click("#a")


def test_headings_sort_numbers_as_numbers_and_undefined_ones_last(parts):
    assert parts.column("#arms", place=0) == ["ten", "none", "nine", "minus"]
    parts.click("#arms th:nth-child(3) button")
    assert parts.column("#arms", place=0) == ["minus", "nine", "ten", "none"]
    heading = "document.querySelector('#arms th:nth-child(3)').getAttribute('aria-sort')"
    assert parts.evaluate(heading) == "ascending"
    parts.click("#arms th:nth-child(3) button")
    assert parts.column("#arms", place=0) == ["ten", "nine", "minus", "none"]
    assert parts.evaluate(heading) == "descending"
    parts.evaluate("document.querySelector('#arms th:nth-child(1) button').focus()")
    parts.press("Enter")
    assert parts.column("#arms", place=0) == ["minus", "nine", "none", "ten"]
    assert parts.evaluate(heading) is None
    assert parts.problems() == []


def test_words_a_choice_and_a_box_filter(parts):
    assert parts.text(".count") == "4 rows"
    parts.type(".controls input", "NINE bu")
    assert parts.column("#arms", place=0) == ["nine"]
    assert parts.text(".count") == "1 of 4 rows"
    parts.type(".controls input", "zzz")
    assert parts.column("#arms", place=0) == []
    parts.evaluate("document.querySelector('.controls input').select()")
    parts.type(".controls input", " ")
    parts.choose(".controls select", "buy")
    assert parts.column("#arms", place=0) == ["nine", "minus"]
    parts.click(".controls input[type=checkbox]")
    assert parts.column("#arms", place=0) == ["nine", "minus", "seed"]
    assert parts.text(".count") == "3 of 5 rows"


def test_a_touch_tells_what_a_mouse_would(parts):
    parts.click("abbr")
    assert parts.text(".why") == "why it is so"
    parts.click("h1")
    assert parts.evaluate("document.querySelector('.why').hidden")


def test_paper_shows_everything_and_no_control(parts):
    look = "getComputedStyle(document.querySelector('{}')).{}"
    assert not parts.evaluate("document.querySelector('#inside').checkVisibility()")
    parts.evaluate("dispatchEvent(new Event('beforeprint'))")
    parts.call("Emulation.setEmulatedMedia", media="print")
    assert parts.evaluate("document.querySelector('#inside').checkVisibility()")
    assert parts.evaluate(look.format(".controls", "display")) == "none"
    assert parts.evaluate(look.format(".scroll", "overflow")) == "visible"
    parts.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not parts.evaluate("document.querySelector('#inside').checkVisibility()")
