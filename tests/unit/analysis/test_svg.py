import re
import xml.etree.ElementTree as ET

from lfm4ads.analysis.svg import (
    INK,
    PALETTE,
    Picture,
    arm_styles,
    canvas,
    file_stem,
    inline,
    to_svg,
)


def draw(name):
    with canvas(height=2) as (figure, axes):
        axes.plot([0, 1], [0, 1], marker="o", color=PALETTE[0])
        axes.set_title("a <b> & c")
        return to_svg(figure, name=name)


def test_the_same_figure_is_the_same_bytes():
    assert draw("one") == draw("one")


def test_files_are_xml_with_text_as_text():
    svg = draw("one")
    texts = [element.text for element in ET.fromstring(svg).iter() if element.tag.endswith("}text")]
    assert "a <b> & c" in texts
    assert "<dc:date>" not in svg


def test_figures_on_one_page_share_no_id():
    ids = [re.findall(r'\bid="([^"]+)"', draw(name)) for name in ("one", "two")]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    used = re.findall(r'(?:url\(#|href="#)([^)"]+)', draw("one"))
    assert used
    assert set(used) <= set(ids[0])


def test_inline_pieces_follow_the_theme_and_name_no_address():
    picture = Picture(name="one", section="auc", caption="", alt='5 < 6 "quoted"', svg=draw("one"))
    piece = inline(picture)
    assert piece.startswith('<svg role="img" aria-label="5 &lt; 6 &quot;quoted&quot;" ')
    assert "://" not in piece
    assert "var(--ink)" in piece
    assert "var(--series-0)" in piece
    assert INK not in piece
    assert "a &lt;b&gt; &amp; c" in piece
    head = piece[: piece.index(">")]
    assert "viewBox" in head
    assert "width" not in head


def test_arms_keep_their_own_look():
    styles = arm_styles(["vanilla", "sum", "adapter", "oracle"], baseline="vanilla")
    looks = [(style.colour, style.marker) for style in styles.values()]
    assert len(set(looks)) == 4
    assert styles["sum"].colour == PALETTE[0]


def test_file_stems_hold_no_slash_or_space():
    assert file_stem("training", "auc/click all", "") == "training-auc-click-all"
