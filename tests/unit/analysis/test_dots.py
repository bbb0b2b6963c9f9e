"""Pictures of marks and of days: what is on them, in words and in both files."""

import xml.etree.ElementTree as ET

from lfm4ads.analysis.dots import draw_days, draw_dots
from lfm4ads.analysis.maps import About, draw_spectra

ABOUT = About(name="one", section="abundance", title="Tables", caption="Grey: width.")


def texts(svg):
    return {one.text for one in ET.fromstring(svg).iter() if one.tag.endswith("text")}


def test_a_figure_that_is_not_defined_has_words_and_no_mark():
    rows = {"user": {"raw": 3.5, "random": 7.9}, "item": {"raw": None, "random": 8.0}}
    picture, png = draw_dots(rows, about=ABOUT, unit="directions", whole={"user": 8, "item": 8})
    assert "user: raw 3.5, random 7.9; item: raw not defined, random 8" in picture.alt
    assert {"user", "item", "raw", "random", "directions", "Tables"} <= texts(picture.svg)
    assert (picture.section, picture.caption) == ("abundance", "Grey: width.")
    assert png.startswith(b"\x89PNG")


def test_days_are_named_and_lines_may_miss_some():
    lines = {"user": (["20260101", "20260102"], [4.0, 2.0]), "item": (["20260102"], [3.0])}
    picture, _ = draw_days(lines, about=ABOUT, unit="directions")
    assert "20260101 to 20260102: user from 4 to 2; item from 3 to 3" in picture.alt
    assert {"20260101", "20260102"} <= texts(picture.svg)


def test_spectra_are_beside_random_ones_and_end_at_the_last_direction():
    picture, _ = draw_spectra(
        {"user": [2.0, 0.02, 0.0]}, random={"user": [1.0, 0.9, 0.8]}, about=ABOUT
    )
    assert "user falls to 0 of the largest, a random one to 0.8" in picture.alt
    assert {"Tables", "user", "over the largest"} <= texts(picture.svg)
